"""Running `pre_command` and `post_command`: the user's own shell text, and the only shell that is ever started."""

from __future__ import annotations

import logging

from zodbvault.errors import ZodbvaultError, reason_of

logger = logging.getLogger("zodbvault")


def run_users_command(
    option: str, text: str, environment: dict[str, str], *, outcome: str = "Nothing was done."
) -> None:
    """Run the text of the option called `option` in a shell; each line of its output is logged.

    environment: variables that tell it what is going on. outcome: what an error says that was done before. Nothing
    happens for an empty text. Raises ZodbvaultError when it fails or cannot be started.
    """
    if not text.strip():
        return
    import os
    import subprocess

    logger.debug("Running %s: %s", option, text)
    try:
        finished = subprocess.run(  # noqa: S602 - the text is written for a shell, by the administrator
            text,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            check=False,
        )
    except OSError as error:
        raise ZodbvaultError(f"{option} cannot be started: {reason_of(error)}", hint=outcome) from error
    output = finished.stdout.decode("utf-8", "backslashreplace").rstrip()
    failed = finished.returncode != 0
    for line in output.splitlines():
        if line.strip():
            logger.log(logging.WARNING if failed else logging.INFO, "%s: %s", option, line.expandtabs())
    if failed:
        code = finished.returncode
        how = f"failed with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        printed = "Its output stands above." if output else "It printed nothing."
        raise ZodbvaultError(f"{option} {how}: {text.strip()}", hint=f"{printed} {outcome}")
