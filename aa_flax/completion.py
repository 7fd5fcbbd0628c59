"""Print a shell's completion of commands, configs and folders: `python -m aa_flax.completion bash|zsh|fish`.

    eval "$(aa-flax completion bash)"     in ~/.bashrc
    eval "$(aa-flax completion zsh)"      in ~/.zshrc, after compinit
    aa-flax completion fish | source      in ~/.config/fish/config.fish

The names of configs are asked for at each TAB, so that they are those of the folder that the shell is in.
"""

import argparse

from aa_flax.commands import COMMANDS, meaning

_BASH = r"""
_aa_flax() {
  local IFS=$'\n' word=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD - 1]}  # names may have blanks
  local more=
  if [ "${COMP_WORDS[1]}" = finetune ]; then more=--from=; fi
  if [ "$flag" = "=" ]; then flag=${COMP_WORDS[COMP_CWORD - 2]}; fi  # "=" divides words
  if [ "$word" = "=" ]; then word=; fi
  if [ "$COMP_CWORD" = 1 ]; then
    COMPREPLY=($(IFS=' ' compgen -W "COMMANDS --help --version" -- "$word"))
  elif [ "$flag" = --config ] || [ "${COMP_WORDS[1]}" = configs ]; then
    COMPREPLY=($(compgen -W "$(aa-flax configs)" -- "$word") $(compgen -f -X "!*.py" -- "$word"))
  elif [ "$flag" = --workdir ]; then
    compopt -o nospace -o filenames
    COMPREPLY=($(compgen -d -- "$word"))
  elif [ "$flag" = --from ]; then
    compopt -o nospace -o filenames
    COMPREPLY=($(compgen -f -- "$word"))
  elif [[ $word == -* ]]; then
    compopt -o nospace
    COMPREPLY=($(IFS=' ' compgen -W "--config= --workdir= --help $more" -- "$word"))
  fi
}
complete -o default -F _aa_flax aa-flax
"""

_ZSH = r"""
_aa_flax() {
  local -a commands=(COMMANDS)
  if (( CURRENT == 2 )); then
    _describe command commands
  elif [[ $words[2] == configs ]] || compset -P '--config='; then
    compadd -- ${(f)"$(aa-flax configs)"}
    _files -g '*.py'
  elif compset -P '--workdir='; then
    _files -/
  elif compset -P '--from='; then
    _files
  elif [[ $PREFIX == -* ]]; then
    compadd -S '' -- --config= --workdir=
    [[ $words[2] == finetune ]] && compadd -S '' -- --from=
    compadd -- --help
  else
    _files
  fi
}
compdef _aa_flax aa-flax
"""

_FISH = r"""
complete -c aa-flax -n __fish_use_subcommand -f -l version
COMMANDS
complete -c aa-flax -n 'not __fish_use_subcommand' -l config -x -a '(aa-flax configs; __fish_complete_suffix .py)'
complete -c aa-flax -n 'not __fish_use_subcommand' -l workdir -x -a '(__fish_complete_directories)'
complete -c aa-flax -n '__fish_seen_subcommand_from configs' -f -a '(aa-flax configs)'
complete -c aa-flax -n '__fish_seen_subcommand_from finetune' -l from -r
complete -c aa-flax -l help -f
"""


def script(shell: str) -> str:
    """Return the completion script of a shell: "bash", "zsh" or "fish"."""
    if shell == "bash":
        return _BASH.replace("COMMANDS", " ".join(COMMANDS)).strip()
    told = {command: meaning(command).replace("'", "’") for command in COMMANDS}
    if shell == "zsh":
        return _ZSH.replace("COMMANDS", " ".join(f"'{command}:{words}'" for command, words in told.items())).strip()
    lines = (f"complete -c aa-flax -n __fish_use_subcommand -f -a {command} -d '{told[command]}'" for command in told)
    return _FISH.replace("COMMANDS", "\n".join(lines)).strip()


def command() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        "aa-flax completion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])
    print(script(parser.parse_args().shell))


if __name__ == "__main__":
    command()
