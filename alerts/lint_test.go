package alerts_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"github.com/evenkeel/evenkeel/alerts"
)

const (
	runbookURL  = "https://github.com/evenkeel/evenkeel/blob/main/docs/runbooks/"
	runbookPath = "../docs/runbooks"
)

// eachRule calls f with every rule and the expression it evaluates.
func eachRule(t *testing.T, f func(t *testing.T, rule rulefmt.Rule, expr parser.Expr)) {
	t.Helper()
	for _, group := range parseRules(t, alerts.Rules()).Groups {
		for _, rule := range group.Rules {
			t.Run(rule.Alert+rule.Record, func(t *testing.T) {
				expr, err := promqlParser.ParseExpr(rule.Expr)
				if err != nil {
					t.Fatal(err)
				}
				f(t, rule, expr)
			})
		}
	}
}

func TestAlertAnnotations(t *testing.T) {
	eachRule(t, func(t *testing.T, rule rulefmt.Rule, _ parser.Expr) {
		if rule.Alert == "" {
			return
		}
		if !strings.HasPrefix(rule.Alert, "Evenkeel") {
			t.Errorf("name %q, want the prefix Evenkeel", rule.Alert)
		}
		if severity := rule.Labels["severity"]; !slices.Contains([]string{"critical", "warning", "info"}, severity) {
			t.Errorf("severity %q, want critical, warning or info", severity)
		}
		if summary := rule.Annotations["summary"]; summary == "" || strings.Contains(summary, "{{") {
			t.Errorf("summary %q, want a static sentence", summary)
		}
		if description := rule.Annotations["description"]; !strings.Contains(description, "$labels.cluster") {
			t.Errorf("description %q, want one that names the cluster", description)
		}
	})
}

func TestRunbooksExist(t *testing.T) {
	want := []string{"README.md"}
	index, err := os.ReadFile(filepath.Join(runbookPath, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	eachRule(t, func(t *testing.T, rule rulefmt.Rule, _ parser.Expr) {
		if rule.Alert == "" {
			return
		}
		page := rule.Alert + ".md"
		want = append(want, page)
		if got := rule.Annotations["runbook_url"]; got != runbookURL+page {
			t.Errorf("runbook_url = %q, want %q", got, runbookURL+page)
		}
		content, err := os.ReadFile(filepath.Join(runbookPath, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, heading := range []string{"# " + rule.Alert, "## What it means", "## What to look at", "## What Evenkeel does", "## What you can do"} {
			if !slices.Contains(strings.Split(string(content), "\n"), heading) {
				t.Errorf("%s has no heading %q", page, heading)
			}
		}
		if !strings.Contains(string(index), "("+page+")") {
			t.Errorf("the index does not link %s", page)
		}
	})
	pages, err := filepath.Glob(filepath.Join(runbookPath, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		if !slices.Contains(want, filepath.Base(page)) {
			t.Errorf("%s belongs to no alert", page)
		}
	}
}

// Several clusters write into one store; a sum over them says nothing.
func TestAggregationsKeepTheCluster(t *testing.T) {
	eachRule(t, func(t *testing.T, _ rulefmt.Rule, expr parser.Expr) {
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if a, ok := n.(*parser.AggregateExpr); ok && (a.Without || !slices.Contains(a.Grouping, "cluster")) {
				t.Errorf("%s does not say that it keeps the label cluster", a)
			}
			return nil
		})
	})
}

// A recorded name is LEVEL:metric:operation, LEVEL being the labels that the
// outermost aggregation leaves.
func TestRecordNames(t *testing.T) {
	records := 0
	eachRule(t, func(t *testing.T, rule rulefmt.Rule, expr parser.Expr) {
		if rule.Record == "" {
			return
		}
		records++
		var level []string
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if a, ok := n.(*parser.AggregateExpr); ok && level == nil {
				level = a.Grouping
			}
			return nil
		})
		parts := strings.Split(rule.Record, ":")
		if len(parts) != 3 || parts[0] != strings.Join(level, "_") {
			t.Errorf("record %q, want %s:metric:operation", rule.Record, strings.Join(level, "_"))
		}
	})
	if records != 4 {
		t.Errorf("%d recording rules, want 4", records)
	}
}

// A misspelt metric makes a rule that never fires and never complains.
func TestRulesUseExportedMetrics(t *testing.T) {
	exported := exportedNames(t)
	eachRule(t, func(t *testing.T, _ rulefmt.Rule, expr parser.Expr) { checkSelectors(t, expr, exported) })
}

func TestEveryWaitGivesItsReason(t *testing.T) {
	var document struct {
		Groups []struct {
			Rules []yaml.Node `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal(alerts.Rules(), &document); err != nil {
		t.Fatal(err)
	}
	for _, group := range document.Groups {
		for _, rule := range group.Rules {
			var alert, reason string
			var waits bool
			for i := 0; i < len(rule.Content); i += 2 {
				switch key, value := rule.Content[i], rule.Content[i+1]; key.Value {
				case "alert":
					alert = value.Value
				case "for":
					waits, reason = true, key.HeadComment
				}
			}
			if alert != "" && (!waits || reason == "") {
				t.Errorf("%s: want a `for` with its reason in a comment above it", alert)
			}
		}
	}
}

// Queries in runbooks are copied in a hurry: they have to work.
func TestRunbookQueries(t *testing.T) {
	exported := exportedNames(t)
	pages, err := filepath.Glob(filepath.Join(runbookPath, "Evenkeel*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks := strings.Split(string(content), "```promql\n")[1:]
		if len(blocks) == 0 {
			t.Errorf("%s has no query", page)
		}
		for _, block := range blocks {
			query, _, closed := strings.Cut(block, "```")
			if !closed {
				t.Fatalf("%s: a query does not end", page)
			}
			expr, err := promqlParser.ParseExpr(query)
			if err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			checkSelectors(t, expr, exported)
		}
	}
}

// exportedNames gives the names of the metrics that the daemons export.
func exportedNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, daemon := range daemons {
		for name := range parseExposition(t, exposition(t, daemon)) {
			names[name] = true
		}
	}
	return names
}

func checkSelectors(t *testing.T, expr parser.Expr, exported map[string]bool) {
	t.Helper()
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok && !exported[v.Name] {
			t.Errorf("no daemon exports %s", v.Name)
		}
		return nil
	})
}
