package rules

import (
	"errors"
	"fmt"
	"text/template/parse"
)

// Errors of templates without further details.
var (
	errNoTemplates    = errors.New("define, template and block are not supported")
	errLabelsVariable = errors.New("the variables $labels and $externalLabels must not be changed: use another name")
)

// walk visits the nodes of a template in the order of execution, and each branch and each loop once.
type walk struct {
	cost
	vars    map[string]value
	inLoop  map[string]bool // variables that are assigned in a range
	loops   int
	repeats float64 // number of executions of the current node, because of the ranges around it
}

// collect adds the variables that are assigned in ranges to `out`. `loop` is set if the list is in a range.
func collect(list *parse.ListNode, loop bool, out map[string]bool) {
	if list == nil {
		return
	}
	pipe := func(p *parse.PipeNode) {
		if loop && p != nil && p.IsAssign {
			for _, v := range p.Decl {
				out[v.Ident[0]] = true
			}
		}
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			pipe(n.Pipe)
		case *parse.IfNode:
			pipe(n.Pipe)
			collect(n.List, loop, out)
			collect(n.ElseList, loop, out)
		case *parse.WithNode:
			pipe(n.Pipe)
			collect(n.List, loop, out)
			collect(n.ElseList, loop, out)
		case *parse.RangeNode:
			collect(&parse.ListNode{Nodes: []parse.Node{&parse.ActionNode{Pipe: n.Pipe}}}, true, out)
			collect(n.List, true, out)
			collect(n.ElseList, loop, out)
		}
	}
}

// list visits the nodes of a list. dot is the value of the dot.
func (w *walk) list(list *parse.ListNode, dot value) error {
	if list == nil {
		return nil
	}
	for _, n := range list.Nodes {
		if err := w.node(n, dot); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) node(n parse.Node, dot value) error {
	if err := w.work(nodeSteps); err != nil {
		return err
	}
	switch n := n.(type) {
	case *parse.TextNode:
		return w.print(float64(len(n.Text)))
	case *parse.ActionNode:
		v, err := w.pipe(n.Pipe, dot)
		if err == nil && len(n.Pipe.Decl) == 0 {
			err = w.print(v.size)
		}
		return err
	case *parse.IfNode:
		if _, err := w.pipe(n.Pipe, dot); err != nil {
			return err
		}
		return w.both(n.List, dot, n.ElseList, dot)
	case *parse.WithNode:
		v, err := w.pipe(n.Pipe, dot)
		if err != nil {
			return err
		}
		return w.both(n.List, v, n.ElseList, dot)
	case *parse.RangeNode:
		return w.loop(n, dot)
	case *parse.TemplateNode:
		return errNoTemplates
	}
	return nil // comments, break and continue
}

func (w *walk) both(list *parse.ListNode, dot value, other *parse.ListNode, otherDot value) error {
	if err := w.list(list, dot); err != nil {
		return err
	}
	return w.list(other, otherDot)
}

// loop visits a range, which must be over a vector or labels: a range over a number, which may be
// computed, could have any number of iterations.
func (w *walk) loop(n *parse.RangeNode, dot value) error {
	v, err := w.commands(n.Pipe, dot)
	if err != nil {
		return err
	}
	if v.kind != kindVector && v.kind != kindLabels {
		return fmt.Errorf("range over %s is not supported: use range only over query results and labels", n.Pipe)
	}
	if w.loops > 0 && !nests(n.Pipe) {
		return fmt.Errorf("range over %s inside another range is not supported: "+
			"inside a range, use range only over labels or directly over the function query", n.Pipe)
	}
	element, key := v.element()
	for i, d := range n.Pipe.Decl {
		if labelsVariable(d.Ident[0]) {
			return errLabelsVariable
		}
		w.vars[d.Ident[0]] = element
		if i == 0 && len(n.Pipe.Decl) > 1 {
			w.vars[d.Ident[0]] = key
		}
	}
	if w.loops++; w.loops > maxLoops {
		return fmt.Errorf("ranges are nested more than %d levels deep", maxLoops)
	}
	outside := w.repeats
	w.repeats *= v.count
	if err = w.work(iterationSteps); err == nil {
		err = w.list(n.List, element)
	}
	w.repeats = outside
	w.loops--
	if err != nil {
		return err
	}
	return w.list(n.ElseList, dot)
}

// nests reports whether a pipeline may be used for a range inside another range: a query, because the
// number of queries is limited during evaluation, or labels, which are few.
func nests(p *parse.PipeNode) bool {
	first := p.Cmds[0].Args[0]
	if id, ok := first.(*parse.IdentifierNode); ok && id.Ident == "query" {
		return true
	}
	return len(p.Cmds) == 1 && ofLabels(first)
}

// ofLabels reports whether a node is a set of labels.
func ofLabels(n parse.Node) bool {
	var path []string
	switch n := n.(type) {
	case *parse.FieldNode:
		path = n.Ident
	case *parse.ChainNode:
		path = n.Field
	case *parse.VariableNode:
		path = n.Ident
		if len(path) == 1 {
			return labelsVariable(path[0])
		}
	}
	if len(path) == 0 {
		return false
	}
	last := path[len(path)-1]
	return last == "Labels" || last == "ExternalLabels"
}

// labelsVariable reports whether a variable is always a set of labels.
func labelsVariable(name string) bool { return name == "$labels" || name == "$externalLabels" }

// pipe visits a pipeline, and sets the variables that it declares or assigns.
func (w *walk) pipe(p *parse.PipeNode, dot value) (value, error) {
	v, err := w.commands(p, dot)
	if err != nil {
		return v, err
	}
	if len(p.Decl) == 0 {
		return v, nil
	}
	name := p.Decl[0].Ident[0]
	if labelsVariable(name) && (len(p.Cmds) != 1 || !ofLabels(p.Cmds[0].Args[0])) {
		return v, errLabelsVariable
	}
	if p.IsAssign && w.loops > 0 && v.looped {
		return v, fmt.Errorf("variable %s is assigned from a variable that changes in the same range: its text could grow without limit", name)
	}
	if old, ok := w.vars[name]; ok { // the variable may have either value
		v = v.or(old)
	}
	w.vars[name] = v
	return v, nil
}

// commands visits the commands of a pipeline. Each one gets the result of the previous one as its last
// argument.
func (w *walk) commands(p *parse.PipeNode, dot value) (value, error) {
	var last *value
	for _, c := range p.Cmds {
		v, err := w.command(c, last, dot)
		if err != nil {
			return v, err
		}
		if v.size > maxText {
			return v, fmt.Errorf("the value of %.60s can become longer than the limit of %d bytes: shorten it", c, maxText)
		}
		last = &v
	}
	if last == nil {
		return value{}, nil
	}
	return *last, nil
}
