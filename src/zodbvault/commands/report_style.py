"""The style sheet of the report: light and dark, for small screens and for paper. Nothing in it comes from elsewhere.

Text has a contrast of at least 4.5 to 1 with what it stands on, in both.
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --quiet: #57606a; --rule: #d0d7de; --box: #f6f8fa;
  --full: #0a4fa3; --incremental: #4d94e8; --blobs: #8a6100; --time: #57606a; --none: #d8dee4;
  --good: #11632f; --warning: #7d4e00; --critical: #b3141f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --ink: #e6edf3; --quiet: #9aa5b1; --rule: #3a424c; --box: #1d232a;
    --full: #9cc7ff; --incremental: #3f7fd1; --blobs: #dcae4a; --time: #9aa5b1; --none: #2c333b;
    --good: #57c47a; --warning: #e3b04b; --critical: #ff8a85;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 60rem; padding: 0 .75rem 2rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.5rem; margin: 1rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
header p, footer p { color: var(--quiet); margin: 0; }
nav a { display: inline-block; padding: .4rem .8rem .4rem 0; color: var(--full); }
code, li { overflow-wrap: anywhere; }
main > section:first-child { border: 1px solid var(--rule); border-left-width: .4rem; background: var(--box);
  padding: 0 1rem; margin-top: 1rem; }
main > section:first-child h2 { margin-top: .75rem; }
section.ok { border-left-color: var(--good) !important; }
section.warning { border-left-color: var(--warning) !important; }
section.critical, section.unknown { border-left-color: var(--critical) !important; }
.badge { font-weight: bold; }
.ok .badge { color: var(--good); } .warning .badge { color: var(--warning); }
.critical .badge, .unknown .badge { color: var(--critical); }
.scroll { overflow-x: auto; margin: 1rem 0; }
.scroll:focus-visible, a:focus-visible, summary:focus-visible {
  outline: 3px solid var(--incremental); outline-offset: 2px;
}
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; font-weight: bold; padding: .25rem 0; }
caption span { position: sticky; left: 0; display: inline-block; max-width: calc(100vw - 1.5rem); }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; } tbody th { white-space: nowrap; }
td.stamp { white-space: nowrap; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tr.warning td:nth-child(2) { color: var(--warning); font-weight: bold; }
tr.critical td, tr.unknown td:nth-child(2) { color: var(--critical); font-weight: bold; }
figure { margin: 1.25rem 0; }
figcaption { font-weight: bold; font-size: .95rem; }
svg { display: block; width: 100%; max-width: 36rem; height: auto; }
svg text { font: 10px system-ui, sans-serif; fill: var(--quiet); }
svg text.end { text-anchor: end; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .full { fill: var(--full); } svg .incremental { fill: var(--incremental); } svg .blobs { fill: var(--blobs); }
svg .time { fill: var(--time); } svg .none { fill: var(--none); } svg .damaged { fill: var(--critical); }
svg .line { fill: none; stroke-width: 2; } svg .line.full { stroke: var(--full); }
svg .line.blobs { stroke: var(--blobs); stroke-dasharray: 5 3; }
.key { font-weight: normal; white-space: nowrap; margin-left: .5rem; }
.key::before { content: ""; display: inline-block; width: .8em; height: .8em; margin-right: .3em; border-radius: 2px;
  background: var(--none); border: 1px solid var(--quiet); print-color-adjust: exact; }
.key.full::before { background: var(--full); } .key.incremental::before { background: var(--incremental); }
.key.blobs::before { background: var(--blobs); } .key.damaged::before { background: var(--critical); }
summary { cursor: pointer; padding: .5rem 0; font-weight: bold; }
footer { margin-top: 2rem; }
@media print {
  :root { --paper: #fff; --ink: #000; --quiet: #333; --rule: #999; --box: #fff; --full: #0a4fa3; --incremental: #4d94e8;
    --blobs: #8a6100; --none: #ddd; --good: #11632f; --warning: #7d4e00; --critical: #b3141f; }
  body { max-width: none; font-size: 10pt; }
  nav { display: none; } .scroll { overflow: visible; } figure, tr { break-inside: avoid; }
  svg rect, svg circle { print-color-adjust: exact; }
}
"""
