package alertsctl

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

// output is the format in which a command prints its result.
type output struct {
	format string
	quiet  bool
}

// outputFlags declares -o, and -q if `bare`, which names the values that -q prints, is not empty.
func outputFlags(fs *flag.FlagSet, bare string) *output {
	o := &output{}
	fs.StringVar(&o.format, "o", "text", "output `format`: text, or json for the complete response of the server")
	if bare != "" {
		fs.BoolVar(&o.quiet, "q", false, "print only "+bare+", for scripts")
	}
	return o
}

func (o *output) check() error {
	switch {
	case o.format != "text" && o.format != "json":
		return command.Misused("-o %s is not supported: use text or json", command.Shorten(o.format))
	case o.quiet && o.format == "json":
		return command.Misused("-q and -o json cannot be combined: use one of them")
	}
	return nil
}

// printJSON prints a response with indentation.
func (c *client) printJSON(body []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, bytes.TrimSpace(body), "", "  "); err != nil {
		return c.Undecodable(nil)
	}
	_, err := fmt.Fprintf(c.Out, "%s\n", &out)
	return err
}

// decode decodes a response. Its error does not contain the cause, whose text is about Go types.
func (c *client) decode(body []byte, into any) error {
	if json.Unmarshal(body, into) != nil {
		return c.Undecodable(nil)
	}
	return nil
}

// table prints rows whose columns are aligned.
func table(w io.Writer, head []string, rows [][]string) error {
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, strings.Join(head, "\t"))
	for _, row := range rows {
		fmt.Fprintln(out, strings.Join(row, "\t"))
	}
	return out.Flush()
}

// fields prints pairs of names and values, one per line. Empty values are left out.
func fields(w io.Writer, pairs ...string) error {
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(out, "%s:\t%s\n", pairs[i], pairs[i+1])
		}
	}
	return out.Flush()
}

// printable returns a text that a user wrote. The text is in quotes if it is empty or contains characters that would
// disturb the output, such as tabs, line breaks and terminal escapes.
func printable(text string) string {
	other := func(r rune) bool { return !unicode.IsPrint(r) }
	if text == "" || strings.ContainsFunc(text, other) || strings.TrimSpace(text) != text {
		return strconv.Quote(text)
	}
	return text
}

// stamp formats a time in UTC.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// labelText returns labels in the notation of PromQL.
func labelText[K, V ~string](labels map[K]V) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, nameText(string(name))+"="+strconv.Quote(string(labels[name])))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// nameText returns the name of a label, in quotes if it needs them.
func nameText(name string) string {
	plain := func(r rune) bool {
		return r == '_' || r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r))
	}
	if name == "" || strings.TrimFunc(name, plain) != "" {
		return strconv.Quote(name)
	}
	return name
}
