package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestWrongUsage checks that a wrong command line ends with exit code 2, and that the error names
// the mistake in the words of the command line and how to correct it, and never suggests a
// destructive command.
func TestWrongUsage(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		// Names of commands.
		"foo":                  "unknown command \"pallium foo\"|Run 'pallium help'",
		"aall":                 `did you mean "pallium all"?`,
		"gatway":               `did you mean "pallium gateway"?`,
		"servre":               "unknown command \"pallium servre\"|Run 'pallium help'",
		"hepl":                 `did you mean "pallium help"?`,
		"tenants list":         `did you mean "pallium tenant"?`,
		"tokn list":            `did you mean "pallium token"?`,
		"limit show x":         `did you mean "pallium limits"?`,
		"polcy list":           `did you mean "pallium policy"?`,
		"migrat up":            `did you mean "pallium migrate"?`,
		"verfy":                `did you mean "pallium verify"?`,
		"conifg check x":       `did you mean "pallium config"?`,
		"comapct":              `did you mean "pallium compact"?`,
		"delete team-a":        "unknown command|Run 'pallium help'",
		"tenant":               "needs a command|tenant create NAME",
		"token":                "needs a command|token issue",
		"limits plans":         "needs a command|limits plans set NAME KEY=VALUE...",
		"ring":                 "needs a command|ring leave INSTANCE",
		"migrate":              "needs a command|migrate up",
		"config":               "needs a command|config check FILE",
		"tenant creat x":       `did you mean "pallium tenant create"?`,
		"tenant lst":           `did you mean "pallium tenant list"?`,
		"tenant delte x":       "unknown command \"pallium tenant delte\"|tenant delete NAME",
		"tenant remove x":      "unknown command \"pallium tenant remove\"|tenant delete NAME",
		"token delet x":        "unknown command \"pallium token delet\"|token delete ID",
		"token isue":           `did you mean "pallium token issue"?`,
		"limits plans lst":     `did you mean "pallium limits plans list"?`,
		"limits sett a b=1":    `did you mean "pallium limits set"?`,
		"migrate down":         "unknown command \"pallium migrate down\"|migrate status",
		"config chekc x":       `did you mean "pallium config check"?`,
		"help tokn":            `did you mean "pallium token"?`,
		"help token isue":      `did you mean "pallium token issue"?`,
		"help token issue now": `unexpected argument "now" after "pallium token issue"|Run 'pallium help token issue'`,
		"alertmanger load x":   `did you mean "pallium alertmanager"?`,
		"silense list":         `did you mean "pallium silence"?`,
		"alertmanager":         "needs a command|alertmanager load FILE [TEMPLATE...]",
		"alertmanager secret":  "needs a command|alertmanager secret set NAME",
		"silence ad a=b":       `did you mean "pallium silence add"?`,
		"alertmanager verify":  "FILE is missing: name the file of the configuration",
		"silence add Watchdog -duration 1h -comment c -author a": `write alertname="Watchdog"`,
		"silence add a=b -duration 1x -comment c -author a":      `-duration "1x" must be a duration greater than 0`,
		"completion powershell":                                  "choose bash, zsh or fish",
		"completion":                                             "bash|zsh|fish is missing",
		// Arguments.
		"all extra":                              `unexpected argument "extra"|Usage: pallium all [FLAGS]`,
		"gateway :9009":                          `unexpected argument ":9009"`,
		"verify data":                            `unexpected argument "data"|-h' for its flags`,
		"version now":                            `unexpected argument "now"`,
		"tenant create":                          "NAME is missing|Usage: pallium tenant create NAME [FLAGS]",
		"tenant create a b":                      `unexpected argument "b" after NAME`,
		"tenant show":                            "NAME is missing",
		"tenant list a":                          `unexpected argument "a"`,
		"tenant set a":                           "set -display-name or -plan|limits set",
		"token revoke":                           "ID is missing",
		"token rotate a b":                       `unexpected argument "b" after ID`,
		"limits set":                             "TENANT KEY=VALUE... is missing",
		"limits set a retention=9":               `"9" is not allowed`,
		"limits set a retention=9d retention=8d": "limit retention appears twice",
		"limits plans set a retention":           "must have the form key=value",
		"limits set a":                           "KEY=VALUE... is missing",
		"tenant create a -limit retention=1d -limit retention=2d": "limit retention appears twice: remove one",
		"limits show":              "TENANT is missing",
		"ring forget":              "INSTANCE is missing",
		"loss accept":              "DAY is missing",
		"audit list now":           `unexpected argument "now"`,
		"audit list -n 0":          "-n 0 must be a number from 1 to 500",
		"loss accept today":        `"today" is not a UTC day: write it as 2026-11-30`,
		"config check":             "FILE is missing",
		"config check a -config b": "give FILE or -config, not both",
		"config show a":            `unexpected argument "a"`,
		// Flags.
		"-confg x":                      "unknown flag -confg; did you mean -config?",
		"all -data-dri x":               "did you mean -data-dir?",
		"all -port 9009":                "unknown flag -port|-h' for its flags",
		"all -config":                   "flag -config needs a value",
		"all -target=ingester":          "unknown flag -target",
		"backend -target=":              "-target: |ingester",
		"backend -target=ingestr":       "-target: |ingester",
		"backend -traget=all":           "did you mean -target?",
		"token issue -tenant":           "flag -tenant needs a value",
		"token issue -scope x":          "unknown flag -scope; did you mean -scopes?",
		"token issue -tenant a":         "-name is missing: say what the key is for",
		"token issue -name n":           "-tenant is missing: set -tenant and -scopes, or -policy",
		"token issue -name n -tenant a": "-scopes is missing|such as metrics:write,metrics:read",
		"token issue -name n -tenant a -scopes metrics:read -policy p":      "-policy cannot be combined with -tenant and -scopes",
		"token issue -name n -tenant a -scopes metrics:read -expires later": `-expires "later" must be a duration such as 90d`,
		"token rotate x -grace 1":                                      `-grace "1" must be a duration such as 12h`,
		"token rotate x -grace 60d":                                    "-grace 60d is too long|the maximum is 30d",
		"policy create p -tenants a":                                   "-scopes is missing",
		"policy create p -scopes a":                                    "-tenants is missing",
		"policy set p":                                                 "set -tenants, -scopes or -display-name",
		"tenant list -o yaml":                                          "-o yaml is not supported: use text or json",
		"tenant list -q -o json":                                       "-q and -o json cannot be combined",
		"tenant list -q=maybe":                                         `invalid boolean value "maybe" for -q`,
		"tenant create a -limit retention=5":                           `"5" is not allowed`,
		"tenant create a -limit max_series=5":                          `did you mean "max_query_series"?`,
		"tenant create a -limit foo=5":                                 `unknown limit "foo"`,
		"tenant create a -limit retention":                             "must have the form key=value",
		"aside drop -tenant a":                                         "-day is missing; 'pallium aside list'",
		"aside drop -tenant a -day x -window 1 -ingester i":            `"x" is not a UTC day`,
		"aside drop -tenant a -day 2024-01-01 -window 1":               "-ingester is missing; 'pallium aside list'",
		"token issue -name n -tenant a -scopes metrics:read -expires=": "-expires is empty: set a value, or leave the flag out",
		"tenant list -admin-url localhost:9010":                        "must have the form http(s)://host[:port]",
		"tenant list -admin-url http://u:p@h":                          "without user and password",
		"tenant list -admin-url http://h?x":                            "without ? and #",
		"verify -tenant a/b":                                           "-tenant|'/'",
		"verify -dta":                                                  "did you mean -data?",
		// Files that do not exist.
		"-config /none":                "read configuration|/none",
		"all -config " + dir:           "read configuration|is a directory",
		"verify -config /none":         "read configuration|/none",
		"migrate status -config /none": "read configuration|/none",
	} {
		t.Run(line, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := runCommand(strings.Fields(line), strings.NewReader(""), &stdout, &stderr)
			if code != 2 || stdout.Len() > 0 {
				t.Errorf("exit %d, stdout %q; want exit 2 without output", code, &stdout)
			}
			for _, part := range strings.Split(want, "|") {
				if !strings.Contains(stderr.String(), part) {
					t.Errorf("the error is %q, want %q in it", &stderr, part)
				}
			}
			first, _, _ := strings.Cut(stderr.String(), "\n")
			if strings.Contains(first, "-target: -target") {
				t.Errorf("the error names the flag twice: %s", first)
			}
			for _, destroys := range []string{"delete\"", "drop\"", "forget\"", "revoke\"", "accept\"", "leave\""} {
				if strings.Contains(first, "did you mean") && strings.Contains(first, destroys) {
					t.Errorf("the error suggests a destructive command: %s", first)
				}
			}
			for _, api := range []string{"main.", "Seconds", "?cascade", "strconv", "unmarshal"} {
				if strings.Contains(first, api) {
					t.Errorf("the error has the internal name %q: %s", api, first)
				}
			}
		})
	}
}

// TestDestructiveCommandsAreNotSuggested mistypes the verb of every command that destroys something. The errors must list the
// commands of the noun, and suggest none.
func TestDestructiveCommandsAreNotSuggested(t *testing.T) {
	destructive := []string{"delete", "drop", "forget", "revoke", "accept", "leave", "expire"}
	checked := map[string]bool{}
	for _, g := range table().Groups {
		for _, c := range g.Commands {
			words := strings.Fields(c.Name)
			verb := words[len(words)-1]
			if !slices.Contains(destructive, verb) {
				continue
			}
			checked[verb] = true
			n := len(verb)
			words[len(words)-1] = verb[:n-2] + verb[n-1:] + verb[n-2:n-1]
			var stdout, stderr bytes.Buffer
			code := runCommand(words, strings.NewReader(""), &stdout, &stderr)
			if got := stderr.String(); code != 2 || strings.Contains(got, "did you mean") || !strings.Contains(got, c.Name) {
				t.Errorf("pallium %s: exit %d, %s", strings.Join(words, " "), code, got)
			}
		}
	}
	if len(checked) != len(destructive) {
		t.Errorf("only commands with these verbs exist: %v", checked)
	}
}
