package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"unicode"
)

// print prints a response: as JSON, as the bare value, or as text.
func (s *session) print(a answer, bare string, text func()) error {
	switch {
	case s.format == "json":
		return s.printJSON(a.body)
	case s.quiet:
		_, err := fmt.Fprintln(s.Out, bare)
		return err
	default:
		text()
		return nil
	}
}

func (s *session) printJSON(body []byte) error {
	var v json.RawMessage = body
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("the server's response is not JSON: %w", err)
	}
	_, err = fmt.Fprintf(s.Out, "%s\n", out)
	return err
}

func (s *session) say(format string, args ...any) {
	fmt.Fprintf(s.Out, format, args...)
}

// list prints a list: as JSON, as names one per line, or as a table.
func list[T any](
	ctx context.Context, s *session, path string, q url.Values, name func(T) string, head []string, cells func(T) []string,
) error {
	parsed, raw, err := items[T](ctx, s, path, q)
	if err != nil {
		return err
	}
	return printList(s, parsed, raw, name, head, cells)
}

// printList prints a list in the format of list.
func printList[T any](
	s *session, parsed []T, raw []json.RawMessage, name func(T) string, head []string, cells func(T) []string,
) error {
	if s.format == "json" {
		if raw == nil {
			raw = []json.RawMessage{}
		}
		b, err := json.Marshal(map[string]any{"items": raw})
		if err != nil {
			return fmt.Errorf("encode list: %w", err)
		}
		return s.printJSON(b)
	}
	if s.quiet {
		for _, v := range parsed {
			s.say("%s\n", name(v))
		}
		return nil
	}
	var rows [][]string
	for _, v := range parsed {
		rows = append(rows, cells(v))
	}
	s.sayTable(head, rows)
	return nil
}

// table prints a response as JSON, as its first column, or as a table.
func (s *session) table(a answer, head []string, rows [][]string) error {
	var first []string
	for _, row := range rows {
		first = append(first, row[0])
	}
	return s.print(a, strings.Join(first, "\n"), func() { s.sayTable(head, rows) })
}

func (s *session) sayTable(head []string, rows [][]string) {
	w := tabwriter.NewWriter(s.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // Shell.Lost returns errors of stdout
}

// fields prints pairs of names and values, one per line.
func (s *session) fields(pairs ...string) {
	w := tabwriter.NewWriter(s.Out, 0, 8, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "%s:\t%s\n", pairs[i], pairs[i+1])
		}
	}
	_ = w.Flush() // Shell.Lost returns errors of stdout
}

// change is a value before and after a command.
type change struct{ name, before, after string }

// changes prints which values of an object a command changed.
func (s *session) changes(object string, list []change) {
	changed := false
	for _, c := range list {
		if c.before != c.after {
			changed = true
			s.say("%s: %s -> %s\n", c.name, orNone(c.before), orNone(c.after))
		}
	}
	if !changed {
		s.say("%s is unchanged\n", object)
	}
}

func orNone(value string) string {
	if value == "" {
		return "(none)"
	}
	return value
}

// firstOf names the first objects of a list, and the command that shows the others.
func firstOf(names []string, command string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more: '%s' shows all", strings.Join(names[:most], ", "), len(names)-most, command)
}

// quoted returns a word as a shell reads it, in quotes if it needs them.
func quoted(word string) string {
	plain := func(r rune) bool {
		return r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("_.-:+/@,", r))
	}
	if word != "" && strings.TrimFunc(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// removeAs deletes an object if it still has the ETag.
func (s *session) removeAs(ctx context.Context, p, query, name, etag string) error {
	if _, err := s.call(ctx, http.MethodDelete, p+query, etag, nil, nil); err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"deleted": name})
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return s.print(answer{body: body}, name, func() { s.say("deleted %s\n", name) })
}

// split splits a comma-separated list and drops empty parts.
func split(s string) []string {
	var out []string
	for _, p := range strings.Split(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, p)
		}
	}
	return out
}

// day returns the date of a time in the format of the API.
func day(t string) string {
	d, _, _ := strings.Cut(t, "T")
	return d
}
