package cli

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

// TestLoweredRetention checks every command that can decrease a tenant's retention: it shows the
// decrease and changes nothing without a confirmation. Other changes need no confirmation.
func TestLoweredRetention(t *testing.T) {
	for _, tt := range []struct {
		line  string
		typed string // the confirmation, if it asks
		warns string // part of the warning; "" = it does not ask
	}{
		{"limits set free retention=1s", "free", "retention of tenant free from 0s (forever) to 1s."},
		{"limits set own retention=29d", "own", "tenant own from 30d to 29d."},
		{"limits set own retention=31d", "", ""},
		{"limits set own retention=0s", "", ""},
		{"limits set own retention=", "", ""},
		{"limits set own max_active_series=1", "", ""},
		{"limits set kept retention=", "kept", "tenant kept from 10w to 60d."},
		{"limits plans set gold retention=1d", "gold", "2 tenants (member, other) from 60d to 1d."},
		{"limits plans set gold retention=61d", "", ""},
		{"limits plans set gold retention=", "", ""},
		{"limits plans set empty retention=1d", "", ""},
		{"limits plans set unlimited retention=1d", "unlimited", "1 tenant (freed) from 0s (forever) to 1d."},
		{"tenant set free -plan gold", "free", "tenant free from 0s (forever) to 60d."},
		{"tenant set own -plan gold", "", ""},
		{"tenant set member -plan=", "", ""},
		{"tenant set member -plan short", "member", "tenant member from 60d to 1w."},
		{"tenant set free -display-name x", "", ""},
	} {
		s := newShell(t)
		for _, line := range []string{
			"limits plans create gold -limit retention=60d", "limits plans create empty", "limits plans create unlimited",
			"limits plans create short -limit retention=7d", "tenant create free", "tenant create own -limit retention=30d",
			"tenant create member -plan gold", "tenant create other -plan gold", "tenant create kept -plan gold -limit retention=70d",
			"tenant create freed -plan unlimited",
		} {
			s.must(line)
		}
		object := map[string]string{"limits set": "limits show ", "limits plans": "limits plans show ", "tenant set": "tenant show "}
		words := strings.Fields(tt.line)
		show := object[strings.Join(words[:2], " ")] + words[2]
		if words[1] == "plans" {
			show = object["limits plans"] + words[3]
		}
		before := s.must(show)
		code, _, errs := s.run(tt.line)
		if (code == 1 && strings.Contains(errs, "nothing was changed")) != (tt.warns != "") || !strings.Contains(errs, tt.warns) {
			t.Errorf("pallium %s: exit %d, %s", tt.line, code, errs)
		}
		if tt.warns == "" {
			continue
		}
		if after := s.must(show); after != before {
			t.Errorf("pallium %s changed something without a confirmation:\n%s\n%s", tt.line, before, after)
		}
		if !strings.Contains(errs, "deleted permanently") || !strings.Contains(errs, "Type "+tt.typed+" to continue: ") {
			t.Errorf("pallium %s: %s", tt.line, errs)
		}
		s.typed = tt.typed + "\n"
		if code, out, errs := s.run(tt.line); code != 0 || !strings.Contains(out, " -> ") {
			t.Errorf("pallium %s, confirmed: exit %d, %s%s", tt.line, code, out, errs)
		}
		if after := s.must(show); after == before {
			t.Errorf("pallium %s changed nothing after the confirmation", tt.line)
		}
	}
	s := newShell(t)
	s.must("tenant create free")
	s.must("limits set free retention=1s -yes")
}

// TestLowered checks the comparison of retentions; 0 is the longest one.
func TestLowered(t *testing.T) {
	for _, tt := range []struct {
		before, after string
		shorter       bool
	}{{"0s", "1y", true}, {"1y", "0s", false}, {"0s", "0s", false}, {"90d", "9d", true}, {"9d", "90d", false}, {"1d", "24h", false}} {
		keep, shorter := lowered(tt.before, tt.after)
		if shorter != tt.shorter || shorter && keep <= 0 {
			t.Errorf("%s to %s: %v, %s", tt.before, tt.after, shorter, keep)
		}
	}
	if !strings.Contains(fmt.Sprint(withZero("retention", "0s"), withZero("retention", "1d")), "0s (forever)") || withZero("x", "0") != "0" {
		t.Errorf("0s and 1d are shown as %v and %v, and 0 of x as %v", withZero("retention", "0s"), withZero("retention", "1d"), withZero("x", "0"))
	}
}

// TestSources checks that the output has the origin of each limit of a tenant, and numbers without
// exponents.
func TestSources(t *testing.T) {
	s := newShell(t)
	s.must("limits plans create gold -limit samples_per_second=1000000 -limit retention=30d")
	s.must("tenant create a -plan gold -limit max_query_series=7")
	out := s.must("limits show a")
	for name, want := range map[string]string{
		"samples_per_second": "samples_per_second 1000000 per second plan gold", "max_query_series": "max_query_series 7 count override",
		"max_body_bytes": "max_body_bytes 5 bytes configuration", "max_query_range": "max_query_range 0s (unlimited) duration default",
	} {
		i := slices.IndexFunc(strings.Split(out, "\n"), func(l string) bool { return strings.HasPrefix(l, name+" ") })
		if i < 0 || strings.Join(strings.Fields(strings.Split(out, "\n")[i]), " ") != want {
			t.Errorf("no line %q in\n%s", want, out)
		}
	}
	if text := s.must("limits describe") + s.must("limits plans show gold") + s.must("limits plans list"); strings.Contains(text, "e+0") ||
		!strings.Contains(text, "default 104857600;") {
		t.Errorf("numbers are not written out: %s", text)
	}
	if text := s.must("limits describe -o json"); !strings.Contains(text, `"default": 104857600`) || strings.Contains(text, `"Name"`) {
		t.Errorf("limits describe -o json: %s", text)
	}
}

// TestQuestions checks commands that must be confirmed with y.
func TestQuestions(t *testing.T) {
	s := newShell(t)
	s.must("limits plans create gold")
	s.must("token issue -create-tenant -tenant a -scopes metrics:read -name n")
	id := strings.TrimSpace(s.must("token list -q"))
	for _, tt := range []struct{ line, asks string }{
		{"limits plans delete gold", "Delete plan gold? [y/N] "},
		{"token revoke " + id, "Revoke token " + id + " (n, active, for a)?"},
		{"token delete " + id, "Delete token " + id + " (n, revoked, for a)?"},
	} {
		for _, typed := range []string{"", "\n", "n\n", "gold\n", "yes please\n"} {
			s.typed = typed
			if code, out, errs := s.run(tt.line); code != 1 || out != "" || !strings.Contains(errs, "nothing was changed") || !strings.Contains(errs, tt.asks) {
				t.Errorf("%s, typed %q: exit %d, %s%s", tt.line, typed, code, out, errs)
			}
		}
		s.typed = "y\n"
		if code, out, errs := s.run(tt.line); code != 0 || out == "" {
			t.Errorf("%s: exit %d, %s%s", tt.line, code, out, errs)
		}
	}
	if out := s.must("token list -q") + s.must("limits plans list -q"); out != "" {
		t.Errorf("left over: %s", out)
	}
}

// TestCascade checks that a policy is not deleted with keys that were issued while the
// user confirmed the deletion of others.
func TestCascade(t *testing.T) {
	s := newShell(t)
	s.must("tenant create a")
	s.must("policy create p -tenants a -scopes metrics:read")
	s.must("token issue -policy p -name first")
	issue := readerFunc(func(b []byte) (int, error) {
		s.must("token issue -policy p -name second")
		return copy(b, "p\n"), nil
	})
	var out, errs bytes.Buffer
	sh := command.Shell{In: issue, Out: &out, Err: &errs, Env: func(k string) string { return s.env[k] }}
	code := (&command.Table{Program: "pallium", Groups: Groups()}).Run(t.Context(), []string{"policy", "delete", "p", "-cascade", "-admin-url", s.url}, sh)
	if code != 1 || !strings.Contains(errs.String(), "its 1 API key (first)") || !strings.Contains(errs.String(), "changed in the meantime") {
		t.Errorf("exit %d, %s", code, &errs)
	}
	s.typed = "p\n"
	if code, _, errs := s.run("policy delete p -cascade"); code != 0 || !strings.Contains(errs, "its 2 API keys (") {
		t.Errorf("exit %d, %s", code, errs)
	}
	if code, _, errs := s.run("policy delete p -cascade"); code != 1 || strings.Contains(errs, "Type") {
		t.Errorf("a policy that does not exist: exit %d, %s", code, errs)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestQuoted checks that names in suggested commands are quoted for the shell.
func TestQuoted(t *testing.T) {
	for word, want := range map[string]string{"team-a": "team-a", "(x)": "'(x)'", "a'b": `'a'\''b'`, "*": "'*'", "": "''", "é": "'é'"} {
		if got := quoted(word); got != want {
			t.Errorf("%s: %s, want %s", word, got, want)
		}
	}
	s := newShell(t)
	if out := s.must("tenant create (x)"); !strings.Contains(out, "-tenant '(x)' ") {
		t.Errorf("not quoted: %s", out)
	}
	for text, want := range map[string]string{command.Counted(1, "API key"): "1 API key", command.Counted(0, "API key"): "0 API keys",
		command.Counted(2, "access policy"): "2 access policies", command.Counted(1, "access policy"): "1 access policy"} {
		if text != want {
			t.Errorf("%s, want %s", text, want)
		}
	}
}
