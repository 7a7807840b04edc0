package command

import (
	"context"
	"fmt"
	"strings"
)

// The scripts call the program itself for completions, so that they need not change with its
// commands. PROGRAM is replaced by the program's name.
const (
	bashScript = `# bash completion for PROGRAM. Load it now:  source <(PROGRAM completion bash)
# or for all shells:  PROGRAM completion bash > /etc/bash_completion.d/PROGRAM
_PROGRAM() {
	local IFS=$'\n'
	COMPREPLY=($("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
}
complete -o default -F _PROGRAM PROGRAM
`
	zshScript = `#compdef PROGRAM
# zsh completion for PROGRAM. Load it now:  source <(PROGRAM completion zsh)
# or for all shells:  PROGRAM completion zsh > "${fpath[1]}/_PROGRAM"
_PROGRAM() {
	local -a lines words_only
	lines=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	words_only=("${(@)lines%%$'\t'*}")
	if [[ -n "${words_only[1]}" ]]; then
		compadd -- "${words_only[@]}"
	else
		_files
	fi
}
if [[ "${funcstack[1]}" == "_PROGRAM" ]]; then
	_PROGRAM "$@"
else
	(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
	compdef _PROGRAM PROGRAM
fi
`
	fishScript = `# fish completion for PROGRAM. Load it now:  PROGRAM completion fish | source
# or for all shells:  PROGRAM completion fish > ~/.config/fish/completions/PROGRAM.fish
function __PROGRAM_complete
	set -l line (commandline -opc) (commandline -ct)
	set -l found ($line[1] __complete $line[2..-1] 2>/dev/null)
	if test (count $found) -gt 0
		printf '%s\n' $found
	else
		__fish_complete_path $line[-1]
	end
end
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
`
)

func completion(program string) Action {
	return func(_ context.Context, sh *Shell, args []string) error {
		script, ok := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[args[0]]
		if !ok {
			return Misused("unknown shell %q; choose bash, zsh or fish", args[0])
		}
		_, err := fmt.Fprint(sh.Out, strings.ReplaceAll(script, "PROGRAM", program))
		return err
	}
}
