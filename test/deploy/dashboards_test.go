package deploy

import (
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/test/kit/dashboards"
)

// docsURL is where links in dashboards lead.
const docsURL = "https://github.com/palliumhq/pallium/blob/main/"

var (
	link    = regexp.MustCompile(`\]\(([^)]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// exists returns an error unless a link leads to a heading of a page in docs.
func exists(t *testing.T, link string) error {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil || !strings.HasPrefix(link, docsURL) {
		return fmt.Errorf("link %s does not lead to %s", link, docsURL)
	}
	file := strings.TrimPrefix(u.Path, "/palliumhq/pallium/blob/main/")
	text := string(read(t, path.Clean(file)))
	if u.Fragment == "" {
		return nil
	}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		anchor := strings.ReplaceAll(strings.ToLower(regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(m[1], "")), " ", "-")
		if anchor == u.Fragment {
			return nil
		}
	}
	return fmt.Errorf("%s has no heading #%s", file, u.Fragment)
}

// TestDashboards checks that dashboards can be read by somebody who sees them for the first time: each
// panel has a title, a unit, and a description with a link to what to do.
func TestDashboards(t *testing.T) {
	uids := map[string]bool{}
	for _, d := range dashboards.Read(t, filepath.Join(root, "deploy/grafana")) {
		t.Run(d.File, func(t *testing.T) {
			if d.UID != "pallium-"+d.File || uids[d.UID] || d.SchemaVersion < 39 || d.Title == "" || d.Description == "" ||
				!slices.Contains(d.Tags, "pallium") {
				t.Errorf("uid %q, schema version %d, title %q, description %q, tags %v", d.UID, d.SchemaVersion, d.Title, d.Description, d.Tags)
			}
			uids[d.UID] = true
			if len(d.Panels) < 8 || len(d.Panels) > 16 {
				t.Errorf("%d panels", len(d.Panels))
			}
			titles, values := map[string]bool{}, valuesOf(t, &d)
			for i := range d.Panels {
				p := &d.Panels[i]
				if titles[p.Title] {
					t.Errorf("two panels have the title %q", p.Title)
				}
				titles[p.Title] = true
				checkPanel(t, p, values)
				checkPlace(t, d.Panels[:i], p)
			}
		})
	}
}

// valuesOf returns values of the variables of a dashboard, and of those that Grafana itself sets.
func valuesOf(t *testing.T, d *dashboards.Dashboard) map[string]string {
	t.Helper()
	out := map[string]string{"__rate_interval": "1m"}
	source := false
	for _, v := range d.Templating.List {
		source = source || v.Type == "datasource" && v.Name == "datasource"
		out[v.Name] = v.AllValue
		if v.Type == "query" && v.AllValue == "" {
			t.Errorf("variable %s has no value for all", v.Name)
		}
	}
	if !source {
		t.Error("the data source cannot be chosen: there is no variable datasource")
	}
	return out
}

func checkPanel(t *testing.T, p *dashboards.Panel, values map[string]string) {
	t.Helper()
	if p.Title == "" || len(p.Description) < 40 || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
		t.Errorf("panel %q: description %q, unit %q, data source %q, %d queries",
			p.Title, p.Description, p.FieldConfig.Defaults.Unit, p.Datasource.UID, len(p.Targets))
	}
	links := link.FindAllStringSubmatch(p.Description, -1)
	if len(links) == 0 {
		t.Errorf("panel %q: the description has no link", p.Title)
	}
	for _, m := range links {
		if err := exists(t, m[1]); err != nil {
			t.Errorf("panel %q: %v", p.Title, err)
		}
	}
	for _, q := range p.Targets {
		expr, unknown := dashboards.Replace(q.Expr, values)
		if len(unknown) > 0 || q.LegendFormat == "" || q.Datasource.UID != "${datasource}" {
			t.Errorf("panel %q: unknown variables %v, legend %q, data source %q", p.Title, unknown, q.LegendFormat, q.Datasource.UID)
		}
		if err := checkExpression(expr); err != nil {
			t.Errorf("panel %q: %s: %v", p.Title, expr, err)
		}
	}
}

// checkExpression returns an error if an expression cannot be parsed, or reads series of other programs: all
// selectors but those of recorded series and alerts select the job pallium.
func checkExpression(expr string) error {
	e, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return err
	}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		s, ok := n.(*parser.VectorSelector)
		if !ok || strings.Contains(s.Name, ":") || s.Name == "ALERTS" {
			return nil
		}
		if !slices.ContainsFunc(s.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == "job" && m.Value == "pallium" }) {
			err = fmt.Errorf("%s does not select the job pallium", s)
		}
		return nil
	})
	return err
}

// checkPlace checks that a panel does not cover others.
func checkPlace(t *testing.T, others []dashboards.Panel, p *dashboards.Panel) {
	t.Helper()
	a := p.GridPos
	if a.W < 1 || a.H < 1 || a.X < 0 || a.X+a.W > 24 {
		t.Errorf("panel %q is at %+v", p.Title, a)
	}
	for i := range others {
		b := others[i].GridPos
		if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
			t.Errorf("panels %q and %q overlap", p.Title, others[i].Title)
		}
	}
}
