package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

// errFull is the error of a full disk.
var errFull = errors.New("no space left on device")

// full is a standard output that accepts as many bytes as `room` says, and then fails.
type full struct{ room int }

func (f *full) Write(b []byte) (int, error) {
	if len(b) > f.room {
		return f.room, errFull
	}
	f.room -= len(b)
	return len(b), nil
}

// with runs a command with `out` as its standard output.
func (s *shell) with(line string, out interface{ Write([]byte) (int, error) }) (code int, stderr string) {
	var errs bytes.Buffer
	args := append(strings.Fields(line), "-admin-url", s.url)
	sh := command.Shell{In: strings.NewReader(s.typed), Out: out, Err: &errs, Env: func(k string) string { return s.env[k] }}
	code = (&command.Table{Program: "pallium", Groups: Groups()}).Run(context.Background(), args, sh)
	return code, errs.String()
}

// TestLostOutput checks that no command succeeds if its output cannot be written, in any
// format, and that a new key is not lost.
func TestLostOutput(t *testing.T) {
	s := newShell(t)
	s.must("token issue -create-tenant -tenant a -scopes metrics:read -name n")
	id := strings.TrimSpace(s.must("token list -q"))
	key := regexp.MustCompile(`\nplm_\S+\n`)
	for _, line := range []string{
		"tenant list", "tenant show a", "limits show a", "limits describe", "token list", "token show " + id, "tenant set a -display-name x",
		"token issue -tenant a -scopes metrics:read -name m", "token rotate -grace 0s " + id, "audit list",
	} {
		for _, format := range []string{"", " -q", " -o json"} {
			for _, room := range []int{0, 1} {
				code, errs := s.with(line+format, &full{room})
				if code != 1 || !strings.Contains(errs, "cannot write the output: no space left on device") {
					t.Errorf("%s%s, room for %d bytes: exit %d, %q", line, format, room, code, errs)
				}
				if strings.Contains(line, "issue") || strings.Contains(line, "rotate") {
					if !key.MatchString(errs) || !strings.Contains(errs, "never shown again") {
						t.Errorf("%s%s: standard error lacks the key or the note about it: %s", line, format, errs)
					}
				}
			}
		}
	}
}

// TestDiscardedKey checks that no key is issued if standard output is /dev/null or closed.
func TestDiscardedKey(t *testing.T) {
	s := newShell(t)
	s.must("token issue -create-tenant -tenant a -scopes metrics:read -name n")
	before := s.must("token list -o json")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	closed, err := os.Create(t.TempDir() + "/closed")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for _, out := range []*os.File{null, closed} {
		for _, line := range []string{"token issue -tenant a -scopes metrics:read -name m", "token rotate -grace 0s " + strings.TrimSpace(s.must("token list -q"))} {
			if code, errs := s.with(line, out); code != 1 || !strings.Contains(errs, "nothing was changed, since the new key would be lost") {
				t.Errorf("%s: exit %d, %s", line, code, errs)
			}
		}
	}
	if after := s.must("token list -o json"); after != before {
		t.Errorf("tokens changed: %s\n%s", before, after)
	}
	if code, errs := s.with("tenant list", null); code != 0 {
		t.Errorf("tenant list: exit %d, %s", code, errs)
	}
}
