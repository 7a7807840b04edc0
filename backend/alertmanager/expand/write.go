package expand

import (
	"bytes"
	"fmt"
	"strings"
	"text/template/parse"
)

// output is the text of a rewritten template. Parsing it must result in the nodes that were written.
type output struct {
	strings.Builder
	textLast bool // whether the last node was a text
}

// raw appends a text outside of actions. Two consecutive texts remain separate nodes, because html/template analyzes each by
// itself. "${" is divided: for each "${" inside a template literal of JavaScript, html/template would analyze a called
// template again, and a template that calls itself forever.
func (o *output) raw(text string) {
	for {
		if o.textLast {
			o.action("/**/")
		}
		o.textLast = true
		i := strings.Index(text, "${")
		if i < 0 {
			o.WriteString(text)
			return
		}
		o.WriteString(text[:i+1])
		text = text[i+1:]
	}
}

// action appends an action. A text that ends with a brace needs a space before it, which the action removes.
func (o *output) action(content string) {
	if o.textLast && strings.HasSuffix(o.String(), "{") {
		o.WriteString(" {{- ")
	} else {
		o.WriteString("{{")
	}
	o.WriteString(content)
	o.WriteString("}}")
	o.textLast = false
}

func (w *writer) open(content string) { w.out.action(content) }

// tree writes the body of a template.
func (w *writer) tree(name string, root *parse.ListNode) {
	if w.out == nil {
		w.out = &output{}
	}
	w.cost = &cost{}
	if parse.IsEmptyTree(root) {
		w.blank(name, root)
	} else {
		w.list(root)
	}
	w.costs[name] = *w.cost
}

// blank writes a template that consists of white space. Nothing is inserted, because a blank template does not replace
// another definition. Its text must be short, because no step counts it. White space around the definitions of a file, which
// is only printed if a template calls the file by name, is cut.
func (w *writer) blank(name string, root *parse.ListNode) {
	var text []byte
	for _, n := range root.Nodes {
		if n, ok := n.(*parse.TextNode); ok {
			text = append(text, n.Text...)
			w.cost.own += textCost(n.Text)
		}
	}
	switch {
	case len(text) <= blankBytes || name == "" && w.field:
		w.out.raw(string(text))
	case name == "":
		w.out.raw(strings.ToValidUTF8(string(text[:blankBytes]), ""))
	default:
		w.fail(root, "template %q has %d bytes of white space and nothing else, the limit is %d: remove some", name, len(text), blankBytes)
	}
}

// list writes a list of nodes, with a step at its beginning. The step is an empty `if` action: it prints nothing, declares
// no variable and does not change the context of html/template.
func (w *writer) list(l *parse.ListNode) {
	outer, nodes := w.out, w.nodes
	w.out, w.nodes = &output{}, stepNodes
	text := 0
	for _, n := range l.Nodes {
		if w.err != nil {
			break
		}
		w.nodes++
		w.cost.own++
		if n, ok := n.(*parse.TextNode); ok {
			text += len(n.Text)
		}
		w.node(n)
	}
	body := w.out
	w.out = outer
	w.out.action(fmt.Sprintf("if %s %d %d", fnStep, w.nodes, text))
	w.out.action("end")
	w.out.WriteString(body.String())
	w.out.textLast = body.textLast
	w.nodes = nodes
}

func (w *writer) node(n parse.Node) {
	switch n := n.(type) {
	case *parse.TextNode:
		w.cost.own += textCost(n.Text)
		w.out.raw(string(n.Text))
	case *parse.ActionNode:
		w.open(w.pipe(n.Pipe, printing(n.Pipe)))
	case *parse.IfNode:
		w.branch("if", &n.BranchNode, "")
	case *parse.WithNode:
		w.branch("with", &n.BranchNode, "")
	case *parse.RangeNode:
		if w.ranges++; w.ranges > maxRanges {
			w.fail(n, "ranges are nested more than %d levels deep", maxRanges)
			return
		}
		outside := w.cost
		w.cost = &cost{}
		w.branch("range", &n.BranchNode, fnRange)
		outside.add(*w.cost, 2)
		w.cost = outside
		w.ranges--
	case *parse.TemplateNode:
		w.call(n)
	case *parse.BreakNode, *parse.ContinueNode:
		s := n.String()
		w.open(s[2 : len(s)-2])
	case *parse.CommentNode:
	default:
		w.fail(n, "%.60s is not supported", n)
	}
}

// branch writes an if, a with or a range.
func (w *writer) branch(keyword string, n *parse.BranchNode, stage string) {
	if w.depth++; w.depth > maxNesting {
		w.fail(n, "actions or parentheses are nested more than %d levels deep", maxNesting)
		return
	}
	w.open(keyword + " " + w.pipe(n.Pipe, stage))
	w.list(n.List)
	if n.ElseList != nil {
		w.open("else")
		w.list(n.ElseList)
	}
	w.open("end")
	w.depth--
}

// call writes a call of a template between two calls that count the depth.
func (w *writer) call(n *parse.TemplateNode) {
	w.checkName(n, n.Name)
	if w.calls++; w.field && w.calls > maxCalls {
		w.fail(n, "the text calls templates %d times, the limit is %d", w.calls, maxCalls)
	}
	w.cost.calls = append(w.cost.calls, n.Name)
	content := fmt.Sprintf("template %q", n.Name)
	if n.Pipe != nil {
		content += " " + w.pipe(n.Pipe, "")
	}
	w.open("if " + fnEnter)
	w.open("end")
	w.open(content)
	w.open("if " + fnLeave)
	w.open("end")
}

// printing returns the stage to append to a pipeline, which counts the printed value. It is "" if the pipeline declares a
// variable, and so prints nothing, or ends with html or urlquery, which count their results, and which html/template only
// allows as last stages.
func printing(p *parse.PipeNode) string {
	if len(p.Decl) > 0 {
		return ""
	}
	if id, ok := p.Cmds[len(p.Cmds)-1].Args[0].(*parse.IdentifierNode); ok && (id.Ident == "html" || id.Ident == "urlquery") {
		return ""
	}
	return fnPrint
}

// pipe returns a pipeline, with a last stage unless it is "".
func (w *writer) pipe(p *parse.PipeNode, last string) string {
	var b bytes.Buffer
	for i, v := range p.Decl {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(v.String())
	}
	switch {
	case len(p.Decl) > 0 && p.IsAssign:
		b.WriteString(" = ")
	case len(p.Decl) > 0:
		b.WriteString(" := ")
	}
	for i, c := range p.Cmds {
		if i > 0 {
			b.WriteString(" | ")
			if chain(c.Args[0]) {
				b.WriteString(fnArg + " | ")
			}
		}
		b.WriteString(w.command(c))
		if makes(c.Args[0]) {
			b.WriteString(" | " + fnValue)
		}
	}
	if last != "" {
		b.WriteString(" | " + last)
	}
	return b.String()
}

// chain reports whether a node may be the call of a method.
func chain(n parse.Node) bool {
	v, ok := n.(*parse.VariableNode)
	return ok && len(v.Ident) > 1 || n.Type() == parse.NodeField || n.Type() == parse.NodeChain
}

// makes reports whether a node may produce a value whose size is not counted otherwise: the result of a method, or of a
// function for which builtin returns false.
func makes(n parse.Node) bool {
	var names []string
	switch n := n.(type) {
	case *parse.IdentifierNode:
		return !builtin(n.Ident)
	case *parse.FieldNode:
		names = n.Ident
	case *parse.VariableNode:
		names = n.Ident[1:]
	case *parse.ChainNode:
		names = n.Field
	}
	for _, name := range names {
		if !plainField(name) {
			return true
		}
	}
	return false
}

func (w *writer) command(c *parse.CommandNode) string {
	parts := []string{w.operand(c.Args[0])}
	method := chain(c.Args[0])
	for _, arg := range c.Args[1:] {
		text := w.operand(arg)
		switch n := arg.(type) {
		case *parse.StringNode:
			if method && len(n.Text) > maxArg {
				w.fail(n, "a text of %d bytes is the argument of %.60s, the limit is %d", len(n.Text), c.Args[0], maxArg)
			}
		case *parse.PipeNode, *parse.FieldNode, *parse.ChainNode, *parse.VariableNode, *parse.IdentifierNode, *parse.DotNode:
			if method {
				text = "(" + text + " | " + fnArg + ")"
			} else if makes(n) {
				text = "(" + text + " | " + fnValue + ")"
			}
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

// operand returns a part of a command.
func (w *writer) operand(n parse.Node) string {
	w.nodes++
	switch n := n.(type) {
	case *parse.IdentifierNode:
		w.function(n)
	case *parse.ChainNode:
		if makes(n.Node) {
			return "(" + w.operand(n.Node) + " | " + fnValue + ")." + strings.Join(n.Field, ".")
		}
		return w.operand(n.Node) + "." + strings.Join(n.Field, ".")
	case *parse.PipeNode:
		if w.depth++; w.depth > maxNesting {
			w.fail(n, "actions or parentheses are nested more than %d levels deep", maxNesting)
			return ""
		}
		inner := w.pipe(n, "")
		w.depth--
		return "(" + inner + ")"
	}
	return n.String()
}

func (w *writer) function(n *parse.IdentifierNode) {
	if strings.HasPrefix(n.Ident, reserved) {
		w.fail(n, "the function %s is not defined", n.Ident)
		return
	}
	if _, ok := w.known[n.Ident]; !ok {
		w.known[n.Ident] = 1 + strings.Count(w.source[:min(int(n.Pos), len(w.source))], "\n")
	}
	if n.Ident == "routeLabels" {
		w.nodes += routeLabelsSteps
	}
}
