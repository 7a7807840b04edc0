package tenantconfig

import (
	"errors"
	"reflect"
	"sort"
	"strings"

	"github.com/prometheus/alertmanager/matcher/compat"
	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/common/promslog"
	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/backend/regexsize"
)

// matcherLines parses a list of matchers. It does not leave this to config.Load, whose parser depends on a global setting of
// the process (compat.InitFromFlags), and which compiles regular expressions of any size.
func (c *checker) matcherLines(n *yaml.Node, path string) {
	if n.Kind != yaml.SequenceNode {
		c.problems.add(path, "found %s where a list of matchers is expected", kindOf(n))
		return
	}
	var all labels.Matchers
	for i, item := range n.Content {
		at := itemAt(path, i)
		if item.Kind != yaml.ScalarNode || isNull(item) {
			c.problems.add(at, "found %s where a matcher such as severity=\"page\" is expected", kindOf(item))
			continue
		}
		all = append(all, c.matcherLine(item.Value, at)...)
	}
	sort.Sort(all) // as in Alertmanager: the order is part of the key of a route
	c.matchers[path] = all
}

// matcherLine parses one line of matchers with both of Alertmanager's parsers. As in Alertmanager, the result of the
// classic parser is used if the two understand a line differently.
func (c *checker) matcherLine(line, path string) labels.Matchers {
	before := c.problems.count()
	nop := promslog.NewNopLogger()
	utf, utfErr := c.parse(compat.UTF8MatchersParser(nop), line, path, nil)
	if c.problems.count() > before {
		return nil
	}
	classic, classicErr := c.parse(compat.ClassicMatchersParser(nop), line, path, utf)
	if c.problems.count() > before {
		return nil
	}
	used, err := classic, classicErr
	if utfErr == nil && classicErr != nil {
		used, err = utf, nil
	}
	switch {
	case err != nil:
		c.problems.add(path, "the matcher %q is not valid: %s", short(line), err)
	case utfErr != nil:
		c.warnings.add(path, "the matcher %q is valid for the classic parser only; write %q, which both parsers understand", short(line),
			short(asText(classic)))
	case classicErr != nil:
		c.warnings.add(path, "the matcher %q is valid for the UTF-8 parser only", short(line))
	case !reflect.DeepEqual(utf, classic):
		c.warnings.add(path, "the parsers understand the matcher %q differently: UTF-8 %q, classic %q; this configuration uses %q",
			short(line), short(asText(utf)), short(asText(classic)), short(asText(used)))
	}
	return used
}

// parse parses a line of matchers. It first parses the line with its regular expression operators replaced by those for
// equality, so that the size of each regular expression is known before it is compiled. `other` is the result of another
// parser, whose regular expressions have been counted already.
func (c *checker) parse(parser compat.ParseMatchers, line, path string, other labels.Matchers) (labels.Matchers, error) {
	plain, hasRegex := withoutRegex(line)
	found, err := parser(plain, "")
	if err != nil || !hasRegex {
		return found, err
	}
	counted := make(map[string]bool, len(other))
	for _, m := range other {
		counted[m.Value] = true
	}
	before := c.problems.count()
	for _, m := range found {
		if !counted[m.Value] {
			c.regex(m.Value, path)
		}
		if c.problems.count() > before {
			return nil, nil
		}
	}
	return parser(line, "")
}

func asText(ms labels.Matchers) string {
	texts := make([]string, len(ms))
	for i, m := range ms {
		texts[i] = m.String()
	}
	return strings.Join(texts, ",")
}

// regex counts the instructions of a regular expression before it is compiled.
func (c *checker) regex(pattern, path string) {
	most := c.options.Limits.Instructions
	if most <= 0 {
		return
	}
	n, err := regexsize.Pattern(pattern, max(0, most-c.instructions))
	c.instructions += n
	var large *regexsize.TooLargeError
	switch {
	case errors.As(err, &large):
		c.problems.add(path, "the regular expression %q, together with the ones before it, compiles to more than %d instructions: "+
			"use fewer or smaller repetitions ({n}), fewer Unicode classes (\\pL) or fewer alternatives", short(pattern), most)
	case err != nil:
		c.problems.add(path, "%s", err)
	}
}

// withoutRegex returns a line with regular expression operators replaced by operators for equality of the same length, and
// reports whether there were any. Both parsers find the same matchers in the result. All operators outside of quotes are
// replaced. An operator in the unquoted value of a classic matcher is a part of the value: then a value for equality, or a
// pattern, lacks one ~.
func withoutRegex(line string) (string, bool) {
	plain := []byte(line)
	inside, escaped, found := false, false, false
	for i, b := range plain {
		switch {
		case b == '"' && !escaped:
			inside = !inside
		case b == '~' && !inside && i > 0 && line[i-1] == '!':
			plain[i], found = '=', true
		case b == '~' && !inside && i > 0 && line[i-1] == '=':
			plain[i], found = ' ', true
		}
		escaped = b == '\\' && !escaped
	}
	return string(plain), found
}
