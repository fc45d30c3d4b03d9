package dashboards

import (
	"fmt"
	"strings"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/prometheus/common/model"
)

// Vars are values for the dashboard's variables and for Grafana's own.
type Vars struct {
	Cluster string
	// Node is a regular expression; empty for every node.
	Node  string
	Model string
	// Range is the length of the time range, RateInterval what Grafana takes for
	// rates: four times the interval between samples.
	Range        time.Duration
	RateInterval time.Duration
}

// PanelQuery is one query of one panel.
type PanelQuery struct {
	Panel string
	Expr  string
}

// Queries gives what Grafana would ask with these values, in the order of the
// panels. Some panels are empty while all is well, such as the list of findings:
// to see whether a query can return anything, run it over a time range in which
// something was wrong.
func Queries(v Vars) ([]PanelQuery, error) {
	d, err := Build()
	if err != nil {
		return nil, err
	}
	if v.Node == "" {
		v.Node = ".*"
	}
	replacer := strings.NewReplacer(
		"$cluster", v.Cluster,
		"$node", v.Node,
		"$model", v.Model,
		"$__rate_interval", model.Duration(v.RateInterval).String(),
		"$__range", model.Duration(v.Range).String(),
	)
	var queries []PanelQuery
	for _, p := range d.Panels {
		if p.Panel == nil {
			continue
		}
		for _, expr := range exprs(p.Panel) {
			queries = append(queries, PanelQuery{Panel: *p.Panel.Title, Expr: replacer.Replace(expr)})
		}
	}
	if len(queries) == 0 {
		return nil, fmt.Errorf("dashboard %s has no query", UID)
	}
	return queries, nil
}

func exprs(p *dashboard.Panel) []string {
	var exprs []string
	for _, target := range p.Targets {
		if query, ok := target.(prometheus.Dataquery); ok {
			exprs = append(exprs, query.Expr)
		}
	}
	return exprs
}
