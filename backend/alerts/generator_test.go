package alerts

import (
	"net/url"
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/rules"
)

func TestGenerator(t *testing.T) {
	const expr = `sum(rate(x{a="b&c"}[5m])) > 1 # {tenant}`
	g := Generator("https://grafana/explore?tenant={tenant}&q={expr}")
	u, err := url.Parse(g.URL("team-a", expr))
	if err != nil || u.Query().Get("q") != expr || u.Query().Get("tenant") != "team-a" || len(u.Query()) != 2 {
		t.Errorf("URL = %s, %v", u, err)
	}
	fired, ended, valid := time.Unix(100, 0), time.Unix(200, 0), time.Unix(300, 0)
	ls, an := labels.FromStrings("alertname", "x"), labels.FromStrings("summary", "y")
	got := g.Of("a", "up", []*rules.Alert{
		{Labels: ls, Annotations: an, FiredAt: fired, ValidUntil: valid}, {Labels: ls, FiredAt: fired, ValidUntil: valid, ResolvedAt: ended},
	})
	link := "https://grafana/explore?tenant=a&q=up"
	want := []*notifier.Alert{{Labels: ls, Annotations: an, StartsAt: fired, EndsAt: valid, GeneratorURL: link},
		{Labels: ls, StartsAt: fired, EndsAt: ended, GeneratorURL: link}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Of = %+v, want %+v", got, want)
	}
	for text, ok := range map[Generator]bool{"http://x/{expr}": true, "https://x": true, "": false, "{expr}": false, "/graph?{expr}": false,
		"javascript:alert(1)//{expr}": false, "http://": false} {
		if err := text.Check(); (err == nil) != ok {
			t.Errorf("Check of %q: %v", text, err)
		}
	}
}
