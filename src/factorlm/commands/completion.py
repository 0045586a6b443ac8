"""``factorlm completion``: commands, config groups, options and keys, for bash and zsh."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from factorlm.errors import UserError

BASH = """_factorlm() {
    COMPREPLY=($(COMP_LINE="$COMP_LINE" factorlm completion query))
    [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o default -o nospace -F _factorlm factorlm"""


def main(arguments: Sequence[str], commands: Sequence[str], configs: Mapping[str, str]) -> None:
    """Print the script of a shell, or answer its query.

    Raises:
        UserError: the shell is not known.
    """
    what = arguments[0] if arguments else ""
    if what == "bash":
        print(BASH)
    elif what == "zsh":
        print("autoload -Uz bashcompinit && bashcompinit\n" + BASH)
    elif what == "query":
        print("\n".join(query(os.environ.get("COMP_LINE", ""), commands, configs)))
    else:
        raise UserError(f"completion {what or 'needs a shell'}: give bash or zsh")


def query(line: str, commands: Sequence[str], configs: Mapping[str, str]) -> list[str]:
    """What may come next on a command line that starts with ``factorlm``."""
    words = line.split(" ")
    if len(words) <= 2:
        return [command for command in commands if command.startswith(words[-1] if len(words) == 2 else "")]
    from hydra import initialize_config_dir
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra.core.global_hydra import GlobalHydra

    from factorlm.config.compose import conf_dir
    from factorlm.config.schema import register

    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        command, rest = words[1], " ".join(words[2:])
        return BashCompletion(loader)._query(configs.get(command, command), rest)
