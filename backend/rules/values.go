package rules

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template/parse"
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
		if len(args) > 0 { // a method, such as Format of a time
			v.size += sum * escapedFactor
		}
	}
	v.looped = v.looped || looped
	return v, err
}

// function estimates the result of a function, and adds its steps.
func (w *walk) function(name string, c *parse.CommandNode, args []value) (value, error) {
	v, err := w.result(name, c, args)
	if err != nil {
		return v, err
	}
	steps := callSteps + v.count
	for _, a := range append(args, v) {
		if a.kind == kindText {
			steps += a.size
		}
	}
	if name == "query" {
		steps += querySteps
	}
	return v, w.work(steps)
}

// result estimates the result of a function.
func (w *walk) result(name string, c *parse.CommandNode, args []value) (value, error) {
	sum := value{}
	for _, a := range args {
		sum.size += a.size + 1
	}
	number := value{size: EstimatedNumber}
	switch name {
	case "query":
		return w.queried(), nil
	case "sortByLabel", "slice", "and", "or", "first", "label", "index":
		return w.part(name, args, sum), nil
	case "printf":
		return w.printf(c, args)
	case "reReplaceAll", "match":
		return w.replaced(name, c, args)
	case "html", "js", "urlquery", "urlQueryEscape", "graphLink", "tableLink", "safeHtml", "title", "toUpper", "toLower":
		sum.size *= escapedFactor
	case "args":
		sum.size += float64(8 * len(args))
	case "value", "len", "not", "eq", "ne", "lt", "le", "gt", "ge", "now", "parseDuration", "toDuration", "humanize", "humanize1024",
		"humanizeDuration", "humanizePercentage":
		return number, nil
	case "print", "println", "stripPort", "stripDomain":
	default:
		sum.size += scalarBytes // for example a time or a host name
	}
	return sum, nil
}

// queried returns the results of a query.
func (w *walk) queried() value {
	v := value{kind: kindVector, item: resultValue, count: MaxQueryResults}
	if w.loops > 0 {
		v.count = innerResults
	}
	v.size = v.count * (resultBytes + EstimatedNumber)
	return v
}

// part returns the result of a function that selects a part of its arguments, whose total size is in `sum`.
func (w *walk) part(name string, args []value, sum value) value {
	if len(args) == 0 {
		return sum
	}
	first, last := args[0], args[len(args)-1]
	switch {
	case name == "sortByLabel" && last.kind == kindVector:
		return last
	case name == "slice":
		return first
	case name == "and" || name == "or":
		for _, a := range args[1:] {
			first = first.or(a)
		}
		return first
	case name == "label":
		return value{size: last.fieldSize()}
	case name == "first" || first.kind == kindVector: // the second condition is for the function index
		item := float64(scalarBytes)
		if w.loops > 0 {
			item = resultValue
		}
		return value{kind: kindSample, size: resultLabels*(EstimatedName+item) + EstimatedNumber, item: item}
	case first.kind == kindLabels:
		return value{size: first.item}
	}
	return sum
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

// argument estimates an argument.
func (w *walk) argument(n parse.Node, dot value) (value, error) {
	switch n := n.(type) {
	case *parse.PipeNode:
		return w.commands(n, dot)
	case *parse.DotNode:
		return dot, nil
	case *parse.StringNode:
		return value{size: float64(len(n.Text))}, nil
	case *parse.NumberNode, *parse.BoolNode, *parse.NilNode:
		return value{size: EstimatedNumber}, nil
	case *parse.VariableNode:
		return w.variable(n.Ident[0]).path(n.Ident[1:]), nil
	case *parse.FieldNode:
		return dot.path(n.Ident), nil
	case *parse.ChainNode:
		inner, err := w.argument(n.Node, dot)
		return inner.path(n.Field), err
	case *parse.IdentifierNode: // a function without arguments
		return w.function(n.Ident, &parse.CommandNode{Args: []parse.Node{n}}, nil)
	}
	return value{size: scalarBytes}, nil
}

// variable returns the value of a variable.
func (w *walk) variable(name string) value {
	v, ok := w.vars[name]
	switch {
	case !ok && name == "$":
		v = rootValue()
	case !ok:
		v = value{size: scalarBytes}
	}
	v.looped = v.looped || w.inLoop[name]
	return v
}
