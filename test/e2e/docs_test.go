package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// page is one page of the documentation.
type page struct {
	name string // path from the root of the repository
	text string
}

func pages(t *testing.T) []page {
	t.Helper()
	names := []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join("../..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			names = append(names, strings.TrimPrefix(path, "../../"))
		}
	}
	var out []page
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, page{name, string(text)})
	}
	return out
}

// block is a shell block; it is runnable if an HTML comment "runnable" precedes it.
type block struct {
	script   string
	runnable bool
}

func (p *page) blocks() (out []block) {
	for _, m := range regexp.MustCompile("(?s)(<!-- runnable -->\n)?```sh\n(.*?)```").FindAllStringSubmatch(p.text, -1) {
		out = append(out, block{m[2], m[1] != ""})
	}
	return out
}

// TestDocs runs every shell block of the documentation that is marked as runnable, the
// blocks of one page in order and in one shell, against a server for that page. All
// other blocks must be valid shell. TestREADME covers the README's blocks.
func TestDocs(t *testing.T) {
	bin, err := filepath.Abs(programs.Binary(t, "PALLIUM"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, p := range pages(t) {
		script := ""
		for _, b := range p.blocks() {
			cmd := exec.Command("bash", "-n")
			cmd.Stdin = strings.NewReader(b.script)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: a block is not valid shell: %v %s\n%s", p.name, err, out, b.script)
			}
			if b.runnable {
				script += b.script
			}
		}
		if script == "" {
			continue
		}
		ran++
		t.Run(p.name, func(t *testing.T) {
			server := programs.StartPallium(t, "")
			dir := t.TempDir()
			if err := os.Symlink(bin, filepath.Join(dir, "pallium")); err != nil {
				t.Fatal(err)
			}
			script = strings.ReplaceAll(script, "http://localhost:9009", server.Edge)
			cmd := exec.CommandContext(t.Context(), "bash", "-e", "-u", "-x", "-c", script)
			cmd.Dir = "../.."
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "PALLIUM_ADMIN_URL="+server.Admin,
				"PALLIUM_ADMIN_TOKEN_FILE="+filepath.Join(server.DataDir, "admin-token"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	if ran < 3 {
		t.Errorf("only %d pages have runnable blocks", ran)
	}
}

// commandLine matches pallium commands at the start of a line, in backquotes, and in the
// middle of shell commands, and commands after the word "run".
var commandLine = regexp.MustCompile("(?m)(?:^|[`|;]|\\$\\(|&& |sudo -u pallium |run )\\s*(pallium [a-z][^`|;&)\n]*)")

// TestCommandsOfDocs checks that every pallium command in the documentation exists, and so do its
// flags.
func TestCommandsOfDocs(t *testing.T) {
	bin := programs.Binary(t, "PALLIUM")
	complete := func(words ...string) []string {
		out, err := exec.Command(bin, append([]string{"__complete"}, words...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for line := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(line, "\t")
			found = append(found, word)
		}
		return found
	}
	seen := map[string]bool{}
	for _, p := range pages(t) {
		if p.name == "CHANGELOG.md" {
			continue // contains former commands
		}
		for _, m := range commandLine.FindAllStringSubmatch(p.text, -1) {
			line, _, _ := strings.Cut(m[1], " #")
			if seen[line] || strings.HasSuffix(line, ": ") { // a label of signatures
				continue
			}
			seen[line] = true
			var words []string
			for _, w := range strings.Fields(line)[1:] {
				switch name, _, _ := strings.Cut(w, "="); {
				case strings.HasPrefix(w, "-") && len(w) > 1 && w[1] != '-':
					if known := complete(append(slices.Clone(words), name)...); !slices.Contains(known, name) {
						t.Errorf("%s: %q has no flag %s", p.name, "pallium "+strings.Join(words, " "), name)
					}
				case slices.Contains(complete(append(slices.Clone(words), "")...), w):
					words = append(words, w)
				case len(words) == 0:
					t.Errorf("%s: %q: there is no command %q", p.name, line, w)
				case len(words) == 1 && len(complete(words[0], "")) > 0 && !strings.ContainsAny(w, ".,|<[") && strings.ToUpper(w) != w:
					t.Errorf("%s: %q: %s has no command %q", p.name, line, words[0], w)
				}
				if len(words) == 0 {
					break
				}
			}
		}
	}
	if len(seen) < 40 {
		t.Errorf("only %d commands were found", len(seen))
	}
}
