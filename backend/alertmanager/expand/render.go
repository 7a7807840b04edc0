package expand

import (
	"context"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/template"
)

// maxRenderSteps limits the steps of all texts and templates of a configuration together. maxRender limits their time, for
// texts that take much longer than their number of steps suggests.
const (
	maxRenderSteps = 10_000_000
	maxRender      = 10 * time.Second
)

var errRender = fmt.Errorf("the templates of the configuration take more than %d steps or %s for a sample of three alerts: "+
	"use fewer or simpler ones", maxRenderSteps, maxRender)

// Text is the text of a field of a configuration, as its author wrote it.
type Text struct {
	Name string // name of the field, for errors
	Text string
	HTML bool // executed as HTML, such as the html of an email
}

// Render executes the texts of a configuration's fields and all templates of its files, for a sample of two firing alerts
// and a resolved one. Each execution is an attempt with its own limits. Render returns an error if a text cannot be parsed,
// calls an unknown function, exceeds a limit, or, as HTML, has actions in a context that html/template cannot escape.
//
// It ignores other errors of execution: a label may be missing in the sample, or a template may expect another argument
// than the data of a notification. It executes templates of files only as text, because most are never used as HTML, where
// for example Slack's <url|text> would not be valid.
func Render(f *Files, external *url.URL, l Limits, extra map[string]any, texts []Text) error {
	t, err := f.New(external, l, extra)
	if err != nil {
		return err
	}
	data := sample(external)
	texts = slices.Clone(texts)
	for _, name := range f.defined {
		texts = append(texts, Text{Name: fmt.Sprintf("template %q", name), Text: fmt.Sprintf("{{ template %q . }}", name)})
	}
	began, steps := time.Now(), int64(0)
	for _, text := range texts {
		if err := f.render(t, text, extra, data); err != nil {
			return err
		}
		if steps += t.budget.steps; steps > maxRenderSteps || time.Since(began) > maxRender {
			return errRender
		}
	}
	return nil
}

func (f *Files) render(t *Templates, text Text, extra map[string]any, data *template.Data) error {
	p, err := rewrite(text.Name, text.Text, true)
	if err != nil {
		return err
	}
	for _, function := range slices.Sorted(maps.Keys(p.known)) {
		if _, ok := extra[function]; !ok && !builtin(function) {
			return fmt.Errorf("%s: line %d: the function %s is not defined", text.Name, p.known[function], function)
		}
	}
	execute := t.template.ExecuteTextString
	if text.HTML {
		if n, err := newAnalysis(f.costs).sum(p.costs[""]); err != nil || n > maxAnalysis {
			return fmt.Errorf("%s: the text is too complicated: use fewer nested ranges and template actions", text.Name)
		}
		execute = t.template.ExecuteHTMLString
	}
	t.Begin(context.Background())
	_, err = execute(p.text, data)
	var escape *htmltemplate.Error
	if t.Err() != nil || errors.As(err, &escape) {
		return fmt.Errorf("%s: %s", text.Name, Message(err))
	}
	return nil
}

// Message returns the text of an execution error without the functions that Rewrite has inserted.
func Message(err error) string {
	var cut []string
	for _, name := range []string{fnPrint, fnValue, fnArg, fnRange} {
		cut = append(cut, " | "+name, "")
	}
	return strings.NewReplacer(cut...).Replace(err.Error())
}

// sample returns the data of a notification about sample alerts.
func sample(external *url.URL) *template.Data {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	common := template.KV{"alertname": "InstanceDown", "job": "node", "severity": "critical"}
	data := &template.Data{
		Receiver: "team", Status: "firing", GroupLabels: template.KV{"alertname": "InstanceDown"}, CommonLabels: common,
		CommonAnnotations: template.KV{"summary": "Instance down"}, RouteLabels: template.KV{}, ExternalURL: external.String(),
	}
	for i := range 3 {
		a := template.Alert{
			Status: "firing", Labels: maps.Clone(common), StartsAt: start, GeneratorURL: "http://prometheus/graph?g0.expr=up",
			Annotations: template.KV{"summary": "Instance down", "description": "The instance is down."}, Fingerprint: fmt.Sprintf("%016x", i),
		}
		a.Labels["instance"] = fmt.Sprintf("host-%d:9100", i)
		if i == 2 {
			a.Status, a.EndsAt = "resolved", start.Add(time.Hour)
		}
		data.Alerts = append(data.Alerts, a)
	}
	return data
}
