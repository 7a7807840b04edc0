package api

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/policies/limits"
)

var errUnexpected = errors.New("the source was read")

// TestTextBounds checks that no route parses texts beyond the limits or
// compiles their regular expressions.
func TestTextBounds(t *testing.T) {
	b := newReading(t, 64<<20)
	b.source.set(func(context.Context) error { return errUnexpected })
	bomb := "(?:" + strings.Repeat("a?b", 1100) + "){1000}" // 6 s and 830 MB to compile
	for _, c := range allReadRoutes() {
		if c.noText {
			continue
		}
		b.lim = limits.Default()
		before := allocated()
		b.check(c.String(), do(b.h, as("acme", c.request(b, bomb))), rejection{422, "limit max_regex_instructions of 100000 instructions exceeded"})
		if n := allocated() - before; n > 16<<20 {
			t.Errorf("%s: allocated %d bytes", c, n)
		}
		b.check(c.String(), do(b.h, as("acme", c.request(b, strings.Repeat("x", 65<<10)))), rejection{422, "limit max_query_length of 65536 bytes exceeded"})
		b.lim.MaxRegexInstructions = 50
		b.check(c.String(), do(b.h, as("acme", c.request(b, "(?:abc){20}"))), rejection{422, "limit max_regex_instructions of 50 instructions exceeded"})
		b.lim.MaxQueryLength = 20
		b.check(c.String(), do(b.h, as("acme", c.request(b, "abcdefghijklmnopqrstuvwxyz"))), rejection{422, "limit max_query_length of 20 bytes exceeded"})
		b.clean(c.String())
	}
}

// TestTextBoundsOfAllTexts checks that the limits apply to all texts of a
// request together, in any parameters.
func TestTextBoundsOfAllTexts(t *testing.T) {
	b := newReading(t, 64<<20)
	b.lim.MaxQueryLength, b.lim.MaxRegexInstructions = 400, 200
	long, wide := strings.Repeat("x", 250), `m{a=~"(?:abc){40}"}`
	for _, tt := range []struct {
		path   string
		params url.Values
		text   string
	}{
		{"series", url.Values{"match[]": {long, long}}, "max_query_length"},
		{"labels", url.Values{"match[]": {long, long}}, "max_query_length"},
		{"label/x/values", url.Values{"match[]": {long, long}}, "max_query_length"},
		{"query", url.Values{"query": {"m", long, long}}, "max_query_length"},
		{"query", url.Values{"query": {"m"}, "match[]": {long, long}}, "max_query_length"},
		{"series", url.Values{"match[]": {wide, wide}}, "max_regex_instructions"},
		{"label/x/values", url.Values{"match[]": {wide, wide}}, "max_regex_instructions"},
		{"query", url.Values{"query": {`label_replace(m, "a", "", "b", "(?:abc){80}")`}}, "max_regex_instructions"},
		{"query_range", url.Values{"query": {`count_values("(?:abc){80}", m)`}}, "max_regex_instructions"},
		{"format_query", url.Values{"query": {`label_replace(m, "a", "", "b", '(?:abc){80}')`}}, "max_regex_instructions"},
		{"query_exemplars", url.Values{"query": {wide + " + " + wide}}, "max_regex_instructions"},
	} {
		w := do(b.h, as("acme", httptest.NewRequest("GET", promAPI+tt.path+"?"+tt.params.Encode(), nil)))
		b.check(tt.path+"?"+tt.params.Encode(), w, rejection{422, "limit " + tt.text})
		// In a POST, parameters in the URL and in the body.
		key := "match[]"
		if tt.params.Has("query") {
			key = "query"
		}
		half := url.Values{key: tt.params[key][:1]}
		tt.params[key] = append(tt.params[key][1:], half.Get(key))
		if tt.path == "label/x/values" {
			continue
		}
		r := httptest.NewRequest("POST", promAPI+tt.path+"?"+half.Encode(), strings.NewReader(tt.params.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		b.check("POST "+tt.path, do(b.h, as("acme", r)), rejection{422, "limit " + tt.text})
		b.clean(tt.path)
	}
}

// TestDashboardVariable checks that a dashboard variable with a thousand names
// is accepted.
func TestDashboardVariable(t *testing.T) {
	b := newReading(t, 128<<20)
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf(`host-%04d\.eu-central-1\.compute\.internal\.example\.com:9100`, i))
	}
	b.lim.MaxQueryLength = 1 << 20
	for _, c := range allReadRoutes() {
		if w := do(b.h, as("a", c.request(b, strings.Join(names, "|")))); w.Code/100 != 2 {
			t.Errorf("%s: %d %.300s", c, w.Code, w.Body)
		}
		b.clean(c.String())
	}
}
