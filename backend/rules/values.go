package rules

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/palliumhq/pallium/backend/regexsize"
)

// command estimates the result of one command.
func (w *walk) command(c *parse.CommandNode, piped *value, dot value) (value, error) {
	args, sum := make([]value, 0, len(c.Args)), 0.
	for _, a := range c.Args[1:] {
		v, err := w.argument(a, dot)
		if err != nil {
			return v, err
		}
		args = append(args, v)
	}
	if piped != nil {
		args = append(args, *piped)
	}
	looped := false
	for _, a := range args {
		sum += a.size
		looped = looped || a.looped
	}
	var v value
	var err error
	if id, ok := c.Args[0].(*parse.IdentifierNode); ok {
		v, err = w.function(id.Ident, c, args)
	} else {
		v, err = w.argument(c.Args[0], dot)
		v.size += sum * escapedFactor // of a method, such as Format of a time
	}
	v.looped = v.looped || looped
	return v, err
}

// function estimates the result of a function.
func (w *walk) function(name string, c *parse.CommandNode, args []value) (value, error) {
	sum := value{}
	for _, a := range args {
		sum.size += a.size + 1
	}
	switch name {
	case "query", "sortByLabel":
		return value{many: true, size: vectorBytes}, nil
	case "printf":
		return w.printf(c, args)
	case "reReplaceAll", "match":
		if err := w.pattern(name, c); err != nil || name == "match" {
			return value{size: 8}, err
		}
		if len(args) == 3 { // the replacement may be inserted before each byte
			return value{size: (args[1].size + 1) * (args[2].size + 1)}, nil
		}
	case "html", "js", "urlquery", "graphLink", "tableLink", "safeHtml", "title", "toUpper", "toLower":
		sum.size *= escapedFactor
	case "first", "label", "strvalue", "value":
		return value{size: scalarBytes}, nil
	case "args":
		sum.size += float64(8 * len(args))
	case "index", "slice", "and", "or", "not", "print", "println", "len", "eq", "ne", "lt", "le", "gt", "ge":
	default:
		sum.size += scalarBytes // numbers, times, host names
	}
	return sum, nil
}

// printf estimates the result of printf, whose format must be a literal.
func (w *walk) printf(c *parse.CommandNode, args []value) (value, error) {
	if len(c.Args) < 2 {
		return value{}, errors.New("the format of printf must be a literal text")
	}
	format, ok := c.Args[1].(*parse.StringNode)
	if !ok {
		return value{}, fmt.Errorf("the format of printf must be a literal text, not %s", c.Args[1])
	}
	longest, sum := 0., float64(len(format.Text))
	for _, a := range args[1:] {
		sum += a.size
		longest = max(longest, a.size)
	}
	verbs, padding, err := checkFormat(format.Text)
	if err != nil {
		return value{}, err
	}
	// An indexed argument may be printed several times, and %q or %x make a text longer.
	return value{size: sum + float64(padding) + float64(verbs)*longest*escapedFactor}, nil
}

// checkFormat checks the widths of a format, and returns its number of verbs and the sum of widths
// and precisions.
func checkFormat(format string) (verbs, padding int, err error) {
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			continue
		}
		verbs++
		i++
		for ; i < len(format) && strings.IndexByte("+-# 0123456789.*[]", format[i]) >= 0; i++ {
			if format[i] == '*' {
				return 0, 0, fmt.Errorf("format %q: a width or precision given by an argument (*) is not supported", format)
			}
			end := i
			for end < len(format) && format[end] >= '0' && format[end] <= '9' {
				end++
			}
			if end == i {
				continue
			}
			n, err := strconv.Atoi(format[i:end])
			if err != nil || n > maxWidth {
				return 0, 0, fmt.Errorf("format %q: a width or precision is above %d", format, maxWidth)
			}
			padding += n
			i = end - 1
		}
	}
	return verbs, padding, nil
}

// pattern checks the regular expression of reReplaceAll or match, which must be a literal.
func (w *walk) pattern(name string, c *parse.CommandNode) error {
	if len(c.Args) < 2 {
		return fmt.Errorf("the regular expression of %s must be a literal text", name)
	}
	s, ok := c.Args[1].(*parse.StringNode)
	if !ok {
		return fmt.Errorf("the regular expression of %s must be a literal text, not %s", name, c.Args[1])
	}
	if len(s.Text) > maxPatternText {
		return fmt.Errorf("the regular expression of %s has %d bytes, the limit is %d", name, len(s.Text), maxPatternText)
	}
	n, err := regexsize.Pattern(s.Text, w.patterns)
	if err != nil {
		return fmt.Errorf("the regular expressions of the template are too large: %w", err)
	}
	w.patterns -= n
	return nil
}

// argument estimates an argument.
func (w *walk) argument(n parse.Node, dot value) (value, error) {
	unknown := value{size: scalarBytes}
	switch n := n.(type) {
	case *parse.PipeNode:
		return w.commands(n, dot)
	case *parse.DotNode:
		return dot, nil
	case *parse.StringNode:
		return value{size: float64(len(n.Text))}, nil
	case *parse.VariableNode:
		return w.field(n, len(n.Ident) > 1, w.variable(n.Ident[0])), nil
	case *parse.FieldNode:
		return w.field(n, true, dot), nil
	case *parse.ChainNode:
		inner, err := w.argument(n.Node, dot)
		return w.field(n, true, inner), err
	case *parse.IdentifierNode: // a function without arguments
		return w.function(n.Ident, &parse.CommandNode{Args: []parse.Node{n}}, nil)
	}
	return unknown, nil
}

// variable returns the value of a variable.
func (w *walk) variable(name string) value {
	v, ok := w.vars[name]
	if !ok {
		v = value{size: scalarBytes}
	}
	v.looped = v.looped || w.inLoop[name]
	return v
}

// field returns the value of a node that selects a field of a value, if selects is set, or is the
// value.
func (w *walk) field(n parse.Node, selects bool, of value) value {
	switch {
	case ofLabels(n):
		return value{many: true, size: vectorBytes, looped: of.looped}
	case selects: // which may be an argument of the function args
		return value{size: max(scalarBytes, of.size), looped: of.looped}
	}
	return of
}
