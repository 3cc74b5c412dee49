"""What zodbvault does otherwise than collective.recipe.backup 6.0.0 on purpose: the one table, with the reasons.

test_differences.py shows each row with both programs; docs/moving-over.rst has what rst_table() returns.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """One row. when: the situation. theirs, ours: what the two do then. why: what ours is good for."""

    when: str
    theirs: str
    ours: str
    why: str


MORE_SCRIPTS = ("list", "verify", "log", "drill", "check", "report", "prune", "schedule")
"""What ours look at backups with, and let them run by themselves; the part's name stands before."""

DIFFERENCES: dict[str, Difference] = {
    # What is there.
    "more scripts": Difference(
        "The scripts of a part",
        "Those that the options ask for.",
        "The same, and ``backup-list``, ``-verify``, ``-log``, ``-drill``, ``-check``, ``-report``, ``-prune`` and"
        " ``-schedule`` (``P-list`` and so on).",
        "Which dates can be restored, and whether they really can, is asked before the day on which it matters.",
    ),
    "pool": Difference(
        "No option asks for a layout of the blobs",
        "A directory ``blobstorage.TS`` for each backup, with a hard link for each blob.",
        "The pool ``blobs`` with each blob once, and a list of blobs for each backup.",
        "A backup costs what is new, not a folder and a link for each blob of the site.",
    ),
    "index": Difference(
        "The index of Data.fs",
        "Written with each backup, incremental ones too.",
        "Written with full backups only.",
        "It grows with the number of objects; the site brings an older one up to date when it starts.",
    ),
    # Questions, arguments and exit codes.
    "no": Difference(
        "A restore is answered with *no*",
        "Exit code 0.",
        "Exit code 1, nothing was done.",
        "A script that calls it sees that nothing was restored.",
    ),
    "unreadable date": Difference(
        "The date of a restore cannot be read",
        "Exit code 1.",
        "Exit code 2.",
        "2 stands for wrong usage everywhere, before anything was tried.",
    ),
    "more arguments": Difference(
        "A script gets an argument that it has no use for",
        "It is passed over, exit code 0.",
        "Exit code 2, nothing is done.",
        "A date that is given to the wrong script would be passed over too.",
    ),
    # Several programs at one time.
    "two at once": Difference(
        "Another run is at work in the same place",
        "Both write.",
        "The second one ends with exit code 75 at once.",
        "Two that write into one chain ruin it.",
    ),
    "running site": Difference(
        "A restore while Zope or the ZEO server runs",
        "Data.fs is replaced, exit code 0.",
        "Exit code 1, nothing is touched.",
        "The running site goes on writing into a file that is not there any more.",
    ),
    # What goes wrong.
    "blobs not copied": Difference(
        "The blobs cannot be copied, because their folder is not there, say",
        "Exit code 0, a backup without blobs.",
        "Exit code 1.",
        "A backup that was reported has to be one.",
    ),
    "blob lost": Difference(
        "The site has lost a blob that Data.fs refers to",
        "Nobody notices.",
        "A warning with its name, in each run; a state before that has it lends it.",
        "Somebody has to know, as long as an old backup may have it.",
    ),
    "space in a path": Difference(
        "The path of the blob storage has a space",
        "Exit code 0, no blob is backed up.",
        "It is backed up as any other.",
        "No command is put together as text for a shell.",
    ),
    "rsync_options": Difference(
        "``rsync_options``",
        "Passed to rsync; one that it does not know leaves a backup without blobs and exit code 0.",
        "Without effect; buildout names each one that asks for something that does not happen.",
        "No rsync is started.",
    ),
    "half a copy": Difference(
        "A copy of the blobs was interrupted, and the run repeated",
        "The half copy is taken for whole; a restore removes the blobs that it lacks from the site, exit code 0.",
        "What is not known to be whole is compared with what Data.fs refers to; no blob is lost.",
        "A restore must not make things worse.",
    ),
    "killed before the .dat": Difference(
        "A run was killed between a data file and its line in the ``.dat``",
        "The next backups and restores end with 0, and the restored Data.fs is damaged.",
        "The file is put aside, or finished, before anything is built on it.",
        "The ``.dat`` says what belongs to a chain, not the listing of the folder.",
    ),
    "damaged backup": Difference(
        "The backup that is to be restored is damaged",
        "Exit code 1, and the live Data.fs is gone.",
        "Exit code 1, and the live Data.fs is untouched.",
        "Everything is checked beside the live database, which is replaced last, by a rename.",
    ),
    "blobs not restored": Difference(
        "The blobs of a restore cannot be copied back",
        "Exit code 0, with the new Data.fs and the old blobs.",
        "Exit code 1, nothing is touched.",
        "Blobs are looked for before Data.fs is replaced.",
    ),
    # Restores.
    "numbered date": Difference(
        "A restore for just the date of a backup, with numbered blobs (``blob_timestamps = false``)",
        "The blobs of the backup before, or exit code 1: the number's time of modification is later than the date.",
        "The blobs of that backup; numbers of ours have its date as their time of modification.",
        "Data.fs and blobs of one backup belong together.",
    ),
    "series after a restore": Difference(
        "A backup with ``incremental_blobs`` after a restore",
        "GNU tar takes blobs for renamed ones; the next restore exits with 1 and lacks blobs.",
        "Every date restores; records of renames are never written, and not needed in what tar wrote.",
        "A blob never changes its name.",
    ),
    "stale index": Difference(
        "The backup that is restored has no index, and the site has one",
        "The index of the old Data.fs stays beside the new one.",
        "It is removed before Data.fs is replaced.",
        "An index that does not belong to its Data.fs finds wrong objects.",
    ),
    "mode of Data.fs": Difference(
        "Owner, group and mode of a restored Data.fs",
        "Those that any new file gets.",
        "Those of the file that it replaces.",
        "Zope has to be able to read and write it, and others not to.",
    ),
    # What is removed.
    "prune by time": Difference(
        "Files have lost their times of modification, by a copy, and old backups are to go",
        "The backups with the oldest times go, the newest ones perhaps.",
        "The backups with the oldest timestamps go.",
        "A copy of a repository is worth as much as the repository.",
    ),
    "folder in a location": Difference(
        "A folder stands in ``location`` when old backups go",
        "Exit code 1 and a traceback.",
        "It stays, exit code 0.",
        "What is not a backup is never removed.",
    ),
    "nothing new, numbered": Difference(
        "Nothing is new since the last backup, with numbered blobs",
        "All blobs are copied or linked once more, as number 0.",
        "Nothing is written.",
        "Each number belongs to one backup of Data.fs.",
    ),
    # Buildout.
    "retired options": Difference(
        "An option that is gone (``gzip``, ``quick``, ``additional_filestorages``, ...) or that nobody knows",
        "Passed over; buildout itself lists *unused options*.",
        "A warning for each, which says what to do.",
        "Somebody may rely on it: further filestorages would not be backed up.",
    ),
    "impossible value": Difference(
        "The value of an option is none, such as ``keep = two``",
        "Buildout accepts it, and the scripts end with a traceback.",
        "Buildout ends with an error that names it.",
        "It is better known now than at three in the morning.",
    ),
    "shared places": Difference(
        "Two parts back up different sites into one location, or share a blob storage",
        "Accepted.",
        "Buildout ends with an error; ``shared_blob_storage = true`` allows the latter.",
        "A restore of one would remove the blobs of the other.",
    ),
    "environment": Difference(
        "The environment of ``pre_command`` and ``post_command``",
        "That of the script.",
        "``ZODBVAULT_RUN_COMMAND``, ``ZODBVAULT_RUN_LOCATION`` and ``ZODBVAULT_RUN_TIMESTAMP`` too.",
        "One command for several scripts can tell which one runs.",
    ),
}


def rst_table() -> str:
    """The table for a page of the docs, in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 20 25 25 30", ""]
    rows = [Difference("When", "collective.recipe.backup", "zodbvault", "Why"), *DIFFERENCES.values()]
    for row in rows:
        lines += [f"   {'* -' if not number else '  -'} {text}" for number, text in enumerate(row)]
    return "\n".join(lines) + "\n"
