package integrations

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
)

// TestHide checks that secrets of four bytes or more are replaced, also if a secret is a part of another one, encoded or quoted.
func TestHide(t *testing.T) {
	s := secrets{}
	for _, value := range []string{"pass", "passport", "a b/c", "line\nbreak\x00", "xyz"} {
		s.add(value)
	}
	for text, want := range map[string]string{
		"passport":                         "<secret>",
		"the password pass":                "the <secret>word <secret>",
		"https://a/?k=a+b%2Fc":             "https://a/?k=<secret>",
		"https://a/a%20b%2Fc/send":         "https://a/<secret>/send",
		"https://a/bot/a%20b/c":            "https://a/bot/<secret>",
		`field "line\nbreak\x00" is wrong`: `field "<secret>" is wrong`,
		"xyz":                              "xyz",
		"\xff":                             "\uFFFD",
	} {
		if got := s.hide(errors.New(text)).Error(); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
	if got := s.hide(errors.New(strings.Repeat("é", maxErrorText))).Error(); len(got) > maxErrorText+30 {
		t.Errorf("an error has %d bytes", len(got))
	}
}

// TestReportDelays checks that a delay is reported when it begins, and that the report contains the limit.
func TestReportDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reported []string
		ctx := ReportDelays(t.Context(), func(err error) { reported = append(reported, err.Error()) })
		l := NewTenantLimiter(Rates{Default: Rate{PerSecond: 0.1, Burst: 1}}).Of("webhook")
		for _, ctx := range []context.Context{ctx, ctx, t.Context()} {
			if err := l.Wait(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if want := "delayed for 10s by the tenant's rate limit: the limit of webhook notifications is 0.1 a second with a burst of 1; "; len(reported) != 1 ||
			!strings.HasPrefix(reported[0], want) {
			t.Errorf("reported %q, want one text %q", reported, want)
		}
	})
}
