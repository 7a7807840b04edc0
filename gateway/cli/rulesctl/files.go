package rulesctl

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/gateway/cli/command"
)

// files implements the commands that read files of rules.
type files struct {
	parser  parser.Parser
	builtin []byte // content of the file with the rules on Pallium's own metrics
}

// builtinNamespace is the default namespace of the rules on Pallium's own metrics.
const builtinNamespace = "pallium"

// source selects the rules that a command reads.
type source struct {
	namespace string // namespace of groups in files that do not set one; empty means the name of the file
	builtin   bool   // whether to read the rules on Pallium's own metrics instead of files
}

func sourceFlags(fs *flag.FlagSet) *source {
	s := &source{}
	fs.StringVar(&s.namespace, "namespace", "", namespaceUsage)
	fs.BoolVar(&s.builtin, "builtin", false, "use the built-in rules on Pallium's own metrics instead of files; "+
		"their namespace is "+builtinNamespace+" by default")
	return s
}

// check returns an error unless either files are named or -builtin is set.
func (s *source) check(names []string) error {
	switch {
	case s.builtin && len(names) > 0:
		return command.Misused("name files or set -builtin, not both")
	case !s.builtin && len(names) == 0:
		return command.Misused("name at least one file, or set -builtin for the rules on Pallium's own metrics")
	}
	return nil
}

const namespaceUsage = "`namespace` of groups in files that do not name one (default: the name of the file without its extension)"

// from returns the groups of a source, sorted by namespace and name.
func (f files) from(s *source, names []string) ([]rules.Group, error) {
	if !s.builtin {
		return f.read(names, s.namespace)
	}
	list, err := rules.ParseFile(f.builtin)
	if err != nil {
		return nil, fmt.Errorf("read the built-in rules: %w", err)
	}
	var groups []rules.Group
	for _, n := range list {
		for _, g := range n.Groups {
			g.Namespace = cmp.Or(s.namespace, builtinNamespace)
			groups = append(groups, g.Group)
		}
	}
	rules.Sort(groups)
	return groups, nil
}

// read reads and checks files, and returns their groups sorted by namespace and name. If any group is
// not valid, it returns the errors of all.
func (f files) read(names []string, namespace string) ([]rules.Group, error) {
	var groups []rules.Group
	var errs []error
	seen := map[[2]string]string{}
	for _, file := range names {
		list, err := readFile(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
			continue
		}
		for _, n := range list {
			for _, g := range n.Groups {
				g.Namespace = nameOf(n.Name, namespace, file)
				if err := rules.Check(g, rules.Checks{Parser: f.parser}); err != nil {
					errs = append(errs, fmt.Errorf("%s: namespace %q: %w", file, g.Namespace, err))
				}
				key := [2]string{g.Namespace, g.Name}
				if other, ok := seen[key]; ok {
					errs = append(errs, fmt.Errorf("%s: group %q of namespace %q is also in %s: rename one of them", file, g.Name, g.Namespace, other))
				}
				seen[key] = file
				groups = append(groups, g.Group)
			}
		}
	}
	rules.Sort(groups)
	return groups, errors.Join(errs...)
}

// nameOf returns the namespace of a group: the one in the file, or else the one of the command line,
// or else, as in mimirtool, the name of the file without its extension.
func nameOf(inFile, flag, file string) string {
	switch {
	case inFile != "":
		return inFile
	case flag != "":
		return flag
	}
	return strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
}

func readFile(name string) ([]rules.Namespace, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer func() { _ = f.Close() }() // errors do not matter, because the file was only read
	data, err := io.ReadAll(io.LimitReader(f, rules.MaxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > rules.MaxFileBytes {
		return nil, fmt.Errorf("the file has more than %d bytes", rules.MaxFileBytes)
	}
	list, err := rules.ParseFile(data)
	if err == nil && len(list) == 0 {
		return nil, errors.New("the file is empty: it must have the field groups, a list of groups of rules")
	}
	return list, err
}

func (f files) check(fs *flag.FlagSet) command.Action {
	namespace := fs.String("namespace", "", namespaceUsage)
	return func(_ context.Context, sh *command.Shell, args []string) error {
		groups, err := f.read(args, *namespace)
		if err != nil {
			return err
		}
		n := 0
		for i := range groups {
			n += len(groups[i].Rules)
		}
		_, err = fmt.Fprintf(sh.Out, "%s with %s %s valid\n", command.Counted(len(groups), "group"), command.Counted(n, "rule"), are(len(groups)))
		return err
	}
}

// state is a group in a file together with the same group on the server.
type state struct {
	rules.Group
	yaml string
	old  string // YAML of the group on the server; "" if it does not exist there
}

func (s *state) String() string { return fmt.Sprintf("group %q of namespace %q", s.Name, s.Namespace) }

// failed returns the error of a request for the group, with the name of the group unless the server's error has it already.
func (s *state) failed(err error) error {
	if strings.HasPrefix(err.Error(), fmt.Sprintf("group %q: ", s.Name)) {
		return fmt.Errorf("namespace %q: %w", s.Namespace, err)
	}
	return fmt.Errorf("%v: %w", s, err)
}

// compare reads files and the groups of the server. `extra` contains the groups that only the server has, in the namespaces of
// the files.
func (f files) compare(ctx context.Context, c *client, args []string, from *source) (list []state, extra []rules.Group, err error) {
	groups, err := f.from(from, args)
	if err != nil {
		return nil, nil, err
	}
	there, err := c.groups(ctx)
	if err != nil {
		return nil, nil, err
	}
	old, known, namespaces := map[[2]string]string{}, map[[2]string]bool{}, map[string]bool{}
	for i := range there {
		text, err := rules.Encode(&there[i])
		if err != nil {
			return nil, nil, fmt.Errorf("encode a group of the server: %w", err)
		}
		old[[2]string{there[i].Namespace, there[i].Name}] = string(text)
	}
	for i := range groups {
		text, err := rules.Encode(&groups[i])
		if err != nil {
			return nil, nil, fmt.Errorf("encode a group: %w", err)
		}
		key := [2]string{groups[i].Namespace, groups[i].Name}
		known[key], namespaces[groups[i].Namespace] = true, true
		list = append(list, state{groups[i], string(text), old[key]})
	}
	for i := range there {
		if g := &there[i]; namespaces[g.Namespace] && !known[[2]string{g.Namespace, g.Name}] {
			extra = append(extra, *g)
		}
	}
	return list, extra, nil
}

func (f files) load(fs *flag.FlagSet) action {
	from := sourceFlags(fs)
	return func(ctx context.Context, c *client, args []string) error {
		if err := from.check(args); err != nil {
			return err
		}
		list, extra, err := f.compare(ctx, c, args, from)
		if err != nil {
			return fmt.Errorf("nothing was changed: %w", err)
		}
		var errs []error
		for i := range list {
			s := &list[i]
			if s.yaml == s.old {
				fmt.Fprintf(c.Out, "unchanged: %v\n", s)
				continue
			}
			if _, err := c.call(ctx, http.MethodPost, path(s.Namespace), []byte(s.yaml)); err != nil {
				errs = append(errs, s.failed(err))
				if ctx.Err() != nil {
					break
				}
				continue
			}
			what := "updated"
			if s.old == "" {
				what = "created"
			}
			fmt.Fprintf(c.Out, "%s: %v\n", what, s)
		}
		for i := range extra {
			g := &extra[i]
			fmt.Fprintf(c.Out, "only on the server: group %q of namespace %q; 'pallium rules delete' deletes it\n", g.Name, g.Namespace)
		}
		return errors.Join(errs...)
	}
}

func (f files) diff(fs *flag.FlagSet) action {
	from := sourceFlags(fs)
	return func(ctx context.Context, c *client, args []string) error {
		if err := from.check(args); err != nil {
			return err
		}
		list, extra, err := f.compare(ctx, c, args, from)
		if err != nil {
			return err
		}
		n := len(extra)
		for i := range list {
			s := &list[i]
			switch s.old {
			case s.yaml:
				continue
			case "":
				fmt.Fprintf(c.Out, "only in the files: %v\n", s)
			default:
				fmt.Fprintf(c.Out, "different: %v\n%s", s, difference(s.old, s.yaml))
			}
			n++
		}
		for i := range extra {
			fmt.Fprintf(c.Out, "only on the server: group %q of namespace %q\n", extra[i].Name, extra[i].Namespace)
		}
		if n > 0 {
			if n == 1 {
				return errors.New("1 group differs")
			}
			return fmt.Errorf("%d groups differ", n)
		}
		_, err = fmt.Fprintf(c.Out, "%s %s the same\n", command.Counted(len(list), "group"), are(len(list)))
		return err
	}
}

// difference returns the lines of two texts that differ: the lines between their common first and last lines.
func difference(old, now string) string {
	a, b := strings.Split(strings.TrimSuffix(old, "\n"), "\n"), strings.Split(strings.TrimSuffix(now, "\n"), "\n")
	first := 0
	for first < len(a) && first < len(b) && a[first] == b[first] {
		first++
	}
	a, b = a[first:], b[first:]
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var out strings.Builder
	for _, l := range a {
		out.WriteString("  - " + l + "\n")
	}
	for _, l := range b {
		out.WriteString("  + " + l + "\n")
	}
	return out.String()
}
