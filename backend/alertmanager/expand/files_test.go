package expand

import (
	"strings"
	"sync"
	"testing"
)

// TestSharedFiles checks that several executors of the same files can be used concurrently.
func TestSharedFiles(t *testing.T) {
	f, err := Parse(map[string]string{"f": `{{ define "mine" }}<b>{{ .Status }}</b>{{ template "email.default.html" . }}{{ end }}`})
	if err != nil {
		t.Fatal(err)
	}
	text, err := Rewrite("field", `{{ template "mine" . }}`)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			templates, err := f.New(external(t), Defaults(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			for range 5 {
				templates.Begin(t.Context())
				data := dataOf(t, 2, 1)
				html, err := templates.Template().ExecuteHTMLString(text, data)
				if err != nil || !strings.HasPrefix(html, "<b>firing</b>") {
					t.Errorf("%.20q, %v", html, err)
				}
				if _, err := templates.Template().ExecuteTextString(text, data); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

// TestMessage checks that the texts of errors do not contain the functions that Rewrite inserts.
func TestMessage(t *testing.T) {
	text, err := Rewrite("field", "{{ range .Alerts.Firing }}{{ .Labels.a.b }}{{ end }}{{ .Alerts.None 1 }}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = newTemplates(t, nil, Defaults()).Template().ExecuteTextString(text, dataOf(t, 1, 0))
	if err == nil || !strings.Contains(Message(err), "executing \"\" at <.Labels.a.b>") {
		t.Errorf("error %v", err)
	}
}
