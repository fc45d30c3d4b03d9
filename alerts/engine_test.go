package alerts_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/evenkeel/evenkeel/alerts"
)

var promqlParser = parser.NewParser(parser.Options{})

// parseRules parses strictly: an unknown key, a bad expression or a bad template
// is an error.
func parseRules(t *testing.T, content []byte) *rulefmt.RuleGroups {
	t.Helper()
	groups, errs := rulefmt.Parse(content, false, model.LegacyValidation, promqlParser, promslog.NewNopLogger())
	for _, err := range errs {
		t.Errorf("parse rules: %v", err)
	}
	if len(errs) > 0 {
		t.FailNow()
	}
	return groups
}

// loader hands the rules to the rule manager from memory.
type loader []byte

func (l loader) Load(_ string, ignoreUnknownFields bool, scheme model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	return rulefmt.Parse(l, ignoreUnknownFields, scheme, promqlParser, promslog.NewNopLogger())
}

func (loader) Parse(query string) (parser.Expr, error) { return promqlParser.ParseExpr(query) }

// cluster is Prometheus in a test's hands: its storage and rule engine, and a
// clock that moves one rule interval per step.
type cluster struct {
	t       *testing.T
	storage *teststorage.TestStorage
	engine  *promql.Engine
	groups  []*rules.Group
	now     time.Time
}

// interval is the evaluation interval of every shipped group.
const interval = 30 * time.Second

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{
		t:       t,
		storage: teststorage.New(t),
		engine:  promqltest.NewTestEngine(t, false, 0, 1e6),
		now:     time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC),
	}
	manager := rules.NewManager(&rules.ManagerOptions{
		Context:              t.Context(),
		NameValidationScheme: model.LegacyValidation,
		QueryFunc:            rules.EngineQueryFunc(c.engine, c.storage),
		NotifyFunc:           func(context.Context, string, ...*rules.Alert) {},
		AppendableV2:         c.storage,
		Queryable:            c.storage,
		GroupLoader:          loader(alerts.Rules()),
		Parser:               promqlParser,
	})
	loaded, errs := manager.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, "evenkeel")
	if len(errs) > 0 {
		t.Fatalf("load rules: %v", errs)
	}
	for _, key := range slices.Sorted(maps.Keys(loaded)) {
		group := loaded[key]
		if group.Interval() != interval {
			t.Fatalf("interval of group %s = %s, want %s", group.Name(), group.Interval(), interval)
		}
		for _, rule := range group.AlertingRules() {
			rule.SetRestored(true)
		}
		c.groups = append(c.groups, group)
	}
	return c
}

// step scrapes the exposition, evaluates every rule, and moves on by one
// interval.
func (c *cluster) step(exposition string) {
	c.t.Helper()
	c.scrape(exposition)
	for _, group := range c.groups {
		group.Eval(c.t.Context(), c.now)
		for _, rule := range group.Rules() {
			if err := rule.LastError(); err != nil {
				c.t.Fatalf("evaluate %s: %v", rule.Name(), err)
			}
		}
	}
	c.now = c.now.Add(interval)
}

func (c *cluster) scrape(exposition string) { c.scrapeAs(exposition, "scraped:9101") }

func (c *cluster) scrapeAs(exposition, instance string) {
	c.t.Helper()
	c.append(exposition, instance, func(m *dto.Metric) float64 {
		return m.GetGauge().GetValue() + m.GetCounter().GetValue()
	})
}

// markStale ends every series of the exposition, as a scrape without them does.
func (c *cluster) markStale(exposition string) {
	c.t.Helper()
	c.append(exposition, "scraped:9101", func(*dto.Metric) float64 { return math.Float64frombits(value.StaleNaN) })
	c.now = c.now.Add(interval)
}

func (c *cluster) append(exposition, instance string, sample func(*dto.Metric) float64) {
	c.t.Helper()
	app := c.storage.AppenderV2(c.t.Context())
	for _, family := range parseExposition(c.t, exposition) {
		for _, m := range family.Metric {
			series := map[string]string{model.MetricNameLabel: family.GetName(), "instance": instance}
			for _, pair := range m.Label {
				series[pair.GetName()] = pair.GetValue()
			}
			if _, err := app.Append(0, labels.FromMap(series), 0, c.now.UnixMilli(), sample(m), nil, nil, storage.AOptions{}); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	if err := app.Commit(); err != nil {
		c.t.Fatal(err)
	}
}

// firing gives the firing alerts of a rule.
func (c *cluster) firing(name string) []*rules.Alert {
	c.t.Helper()
	for _, group := range c.groups {
		for _, rule := range group.AlertingRules() {
			if rule.Name() != name {
				continue
			}
			return slices.DeleteFunc(rule.ActiveAlerts(), func(a *rules.Alert) bool { return a.State != rules.StateFiring })
		}
	}
	c.t.Fatalf("there is no alert %s", name)
	return nil
}

// query gives each series of an instant query at the latest step, as
// "{labels} value", in order.
func (c *cluster) query(expr string) []string {
	c.t.Helper()
	q, err := c.engine.NewInstantQuery(c.t.Context(), c.storage, nil, expr, c.now.Add(-interval))
	if err != nil {
		c.t.Fatal(err)
	}
	defer q.Close()
	vector, err := q.Exec(c.t.Context()).Vector()
	if err != nil {
		c.t.Fatalf("query %s: %v", expr, err)
	}
	var lines []string
	for _, sample := range vector {
		lines = append(lines, fmt.Sprintf("%s %.4g", sample.Metric.DropReserved(func(n string) bool { return n == model.MetricNameLabel }), sample.F))
	}
	slices.Sort(lines)
	return lines
}

func parseExposition(t *testing.T, exposition string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(strings.NewReader(exposition))
	if err != nil {
		t.Fatalf("parse exposition: %v", err)
	}
	return families
}

var daemons = []string{"agent", "collector", "remediator"}

// exposition reads what a daemon exports.
func exposition(t *testing.T, daemon string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", daemon+".prom"))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
