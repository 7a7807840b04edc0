package command

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// inShell runs a script after the completion script of a shell. The program is a stub
// that completes "bread b" and "bread --".
func inShell(t *testing.T, shell, script string, flags ...string) string {
	t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	stub := "#!/bin/sh\ncase \"$*\" in\n'__complete bread b') printf 'bake\\tabout\\nbuy\\tabout buying\\n';;\n" +
		"'__complete bread --') printf -- '--oven\\tthe oven\\n';;\nesac\n"
	if err := os.WriteFile(filepath.Join(dir, "bakery"), []byte(stub), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bfile"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	bakery().Run(t.Context(), []string{"completion", shell}, Shell{Out: &text, Err: os.Stderr})
	text.WriteString(script)
	cmd := exec.CommandContext(t.Context(), path, append(flags, "-c", text.String())...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "ZDOTDIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", shell, err, out)
	}
	return string(out)
}

// TestBash checks that a real bash calls the program and offers the words that it prints.
func TestBash(t *testing.T) {
	out := inShell(t, "bash", "COMP_WORDS=(bakery bread b) COMP_CWORD=2\n_bakery\nprintf '%s,' \"${COMPREPLY[@]}\"\ncomplete -p bakery\n", "--norc")
	if out != "bake,buy,complete -o default -F _bakery bakery\n" {
		t.Errorf("bash completes %q", out)
	}
}

// TestFish checks that a real fish offers only the words that the program prints, and files if it
// prints none.
func TestFish(t *testing.T) {
	out := inShell(t, "fish", "complete -C 'bakery bread b'\necho /\ncomplete -C 'bakery bread --'\necho /\ncomplete -C 'bakery cake b'\n", "--no-config")
	if out = strings.ReplaceAll(out, "\n", ","); out != "bake\tabout,buy\tabout buying,/,--oven\tthe oven,/,bakery,bfile," {
		t.Errorf("fish completes %q", out)
	}
}

// TestZsh checks that the script can be loaded by a zsh that has not loaded its completion system.
func TestZsh(t *testing.T) {
	if out := inShell(t, "zsh", "print $_comps[bakery]\n", "-f"); out != "_bakery\n" {
		t.Errorf("zsh has the completion function %q", out)
	}
}
