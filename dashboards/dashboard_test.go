package dashboards_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"

	"github.com/evenkeel/evenkeel/dashboards"
	"github.com/evenkeel/evenkeel/internal/golden"
)

func TestMain(m *testing.M) {
	plugins.RegisterDefaultPlugins() // without it any query passes as one of an unknown kind
	os.Exit(m.Run())
}

func build(t *testing.T) dashboard.Dashboard {
	t.Helper()
	d, err := dashboards.Build()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// shown gives the panels that are not rows.
func shown(t *testing.T) []*dashboard.Panel {
	t.Helper()
	var panels []*dashboard.Panel
	for _, p := range build(t).Panels {
		if p.Panel != nil {
			panels = append(panels, p.Panel)
		}
	}
	return panels
}

func TestCommittedDashboardIsCurrent(t *testing.T) {
	content, err := dashboards.Render()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "evenkeel.json", content)
}

func readStrictly(content []byte) error {
	var d dashboard.Dashboard
	if err := d.UnmarshalJSONStrict(content); err != nil {
		return err
	}
	return d.Validate()
}

func TestCommittedDashboardFollowsTheSchema(t *testing.T) {
	content, err := os.ReadFile("evenkeel.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := readStrictly(content); err != nil {
		t.Errorf("evenkeel.json: %v", err)
	}
	// The check can fail: for the dashboard's own fields, a panel's, and a query's.
	for _, field := range []string{`"schemaVersion"`, `"graphMode"`, `"legendFormat"`} {
		spoilt := strings.Replace(string(content), field, field[:len(field)-1]+`X"`, 1)
		if err := readStrictly([]byte(spoilt)); err == nil {
			t.Errorf("evenkeel.json with %s misspelt passes, want an error", field)
		}
	}
}

func TestPanelsCanBeRead(t *testing.T) {
	panels := shown(t)
	if len(panels) > 18 {
		t.Errorf("%d panels, want at most 18", len(panels))
	}
	titles := map[string]bool{}
	for _, p := range panels {
		title := *p.Title
		if titles[title] {
			t.Errorf("two panels are called %q", title)
		}
		titles[title] = true
		if p.Description == nil || !strings.Contains(*p.Description, "Good: ") && !strings.Contains(*p.Description, "should be") {
			t.Errorf("panel %q: description does not say what good looks like", title)
		}
		if p.FieldConfig.Defaults.Unit == nil && p.Type != "table" {
			t.Errorf("panel %q has no unit", title)
		}
		var refs []string
		for _, target := range p.Targets {
			query, ok := target.(prometheus.Dataquery)
			if !ok {
				t.Fatalf("panel %q has a target of type %T", title, target)
			}
			if query.Datasource == nil || *query.Datasource.Type != "prometheus" || *query.Datasource.Uid != "${datasource}" {
				t.Errorf("panel %q: query %s does not carry its data source", title, *query.RefId)
			}
			if !strings.Contains(query.Expr, `cluster="$cluster"`) {
				t.Errorf("panel %q: query %s mixes clusters", title, *query.RefId)
			}
			if *query.LegendFormat == "" && p.Type != "table" && p.Type != "barchart" {
				t.Errorf("panel %q: query %s has no legend", title, *query.RefId)
			}
			if slices.Contains(refs, *query.RefId) {
				t.Errorf("panel %q uses %s twice", title, *query.RefId)
			}
			refs = append(refs, *query.RefId)
		}
		if len(refs) == 0 {
			t.Errorf("panel %q asks nothing", title)
		}
	}
}

func TestPanelsFitTheGrid(t *testing.T) {
	const width = 24
	taken := map[[2]uint32]string{}
	ids := map[uint32]bool{}
	for _, p := range build(t).Panels {
		title, pos, id := "", (*dashboard.GridPos)(nil), uint32(0)
		if p.Panel != nil {
			title, pos, id = *p.Panel.Title, p.Panel.GridPos, *p.Panel.Id
		} else {
			title, pos, id = *p.RowPanel.Title, p.RowPanel.GridPos, p.RowPanel.Id
		}
		if id == 0 || ids[id] {
			t.Errorf("panel %q: id %d is not its own", title, id)
		}
		ids[id] = true
		if pos.X+pos.W > width {
			t.Errorf("panel %q ends at column %d, beyond %d", title, pos.X+pos.W, width)
		}
		for x := pos.X; x < pos.X+pos.W; x++ {
			for y := pos.Y; y < pos.Y+pos.H; y++ {
				if other, ok := taken[[2]uint32{x, y}]; ok {
					t.Fatalf("panels %q and %q overlap", title, other)
				}
				taken[[2]uint32{x, y}] = title
			}
		}
	}
}

func TestVariables(t *testing.T) {
	var names []string
	for _, v := range build(t).Templating.List {
		names = append(names, v.Name)
	}
	if want := []string{"datasource", "cluster", "node", "model"}; !slices.Equal(names, want) {
		t.Errorf("variables = %v, want %v", names, want)
	}
}

var panelMention = regexp.MustCompile(`panel \*\*([^*]+)\*\*`)

func TestRunbooksNamePanelsThatExist(t *testing.T) {
	var titles []string
	for _, p := range shown(t) {
		titles = append(titles, *p.Title)
	}
	pages, err := filepath.Glob("../docs/runbooks/Evenkeel*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("runbooks: %v, %v", pages, err)
	}
	for _, page := range pages {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		mentions := panelMention.FindAllStringSubmatch(string(content), -1)
		if len(mentions) == 0 {
			t.Errorf("%s names no panel", page)
		}
		for _, m := range mentions {
			if !slices.Contains(titles, m[1]) {
				t.Errorf("%s names the panel %q, which does not exist", page, m[1])
			}
		}
	}
}

func queries(t *testing.T, v dashboards.Vars) []dashboards.PanelQuery {
	t.Helper()
	q, err := dashboards.Queries(v)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

var vars = dashboards.Vars{Cluster: "east", Model: "dsv3", Range: 5 * time.Minute, RateInterval: 2 * time.Minute}

func TestQueriesHaveNoVariableLeft(t *testing.T) {
	asked := map[string]bool{}
	for _, q := range queries(t, vars) {
		asked[q.Panel] = true
		if strings.Contains(q.Expr, "$") {
			t.Errorf("panel %q asks %s: a variable is left", q.Panel, q.Expr)
		}
	}
	for _, p := range shown(t) {
		if !asked[*p.Title] {
			t.Errorf("Queries leaves out the panel %q", *p.Title)
		}
	}
}

// A recorded series that nobody reads costs every evaluation and tells nobody.
func TestEveryRecordedSeriesIsShown(t *testing.T) {
	rules, err := os.ReadFile("../alerts/rules/evenkeel.yaml")
	if err != nil {
		t.Fatal(err)
	}
	records := regexp.MustCompile(`(?m)^ *- record: (\S+)$`).FindAllStringSubmatch(string(rules), -1)
	if len(records) == 0 {
		t.Fatal("the shipped rules record nothing")
	}
	for _, record := range records {
		if !slices.ContainsFunc(queries(t, vars), func(q dashboards.PanelQuery) bool { return strings.Contains(q.Expr, record[1]) }) {
			t.Errorf("no panel shows %s", record[1])
		}
	}
}
