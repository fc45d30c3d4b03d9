// Package dashboards builds the Grafana dashboard that Evenkeel ships.
//
// It decides what an operator sees first and what good looks like; each panel's
// description says the latter. Panels read only metrics that the daemons export
// and the recorded series of the shipped rules. The dashboard is rendered as
// classic JSON, which Grafana 9 to 13 and Amazon Managed Grafana take.
package dashboards

import (
	"encoding/json"
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
)

// UID is the dashboard's stable identity: its address in Grafana is /d/<UID>.
const UID = "evenkeel"

// Build gives the dashboard.
func Build() (dashboard.Dashboard, error) {
	b := dashboard.NewDashboardBuilder("Evenkeel").
		Uid(UID).
		Description("Fleet health, accelerators and expert load of clusters that Evenkeel looks after.").
		Tags([]string{"evenkeel"}).
		Timezone("browser").
		Refresh("30s").
		Time("now-1h", "now").
		Tooltip(dashboard.DashboardCursorSyncCrosshair)
	for _, v := range variables() {
		b.WithVariable(v)
	}
	for _, row := range []struct {
		title  string
		panels panels
	}{
		{"Fleet", fleetPanels()},
		{"Accelerators", acceleratorPanels()},
		{"Mixture of experts", expertPanels()},
	} {
		b.WithRow(dashboard.NewRowBuilder(row.title))
		for _, panel := range row.panels {
			b.WithPanel(panel)
		}
	}
	d, err := b.Build()
	if err != nil {
		return dashboard.Dashboard{}, fmt.Errorf("build dashboard: %w", err)
	}
	number(&d)
	return d, nil
}

// Render gives the dashboard as the JSON that is committed and published.
func Render() ([]byte, error) {
	d, err := Build()
	if err != nil {
		return nil, err
	}
	content, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode dashboard: %w", err)
	}
	return append(content, '\n'), nil
}

// number gives every panel an id, so that links to a panel stay valid across
// renderings.
func number(d *dashboard.Dashboard) {
	for i := range d.Panels {
		id := uint32(i + 1)
		if panel := d.Panels[i].Panel; panel != nil {
			panel.Id = &id
		} else {
			d.Panels[i].RowPanel.Id = id
		}
	}
}

// variables are what a viewer chooses. A metric store may hold several clusters,
// so cluster is always one value and every query names it.
func variables() []cog.Builder[dashboard.VariableModel] {
	labelValues := func(name, label, selector string) *dashboard.QueryVariableBuilder {
		query := fmt.Sprintf("label_values(%s, %s)", selector, name)
		return dashboard.NewQueryVariableBuilder(name).
			Label(label).
			Datasource(datasource()).
			Query(dashboard.StringOrMap{String: &query}).
			Definition(query).
			Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
			Sort(dashboard.VariableSortNaturalAsc)
	}
	return []cog.Builder[dashboard.VariableModel]{
		dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus"),
		labelValues("cluster", "Cluster", "evenkeel_agent_heartbeat_timestamp_seconds"),
		labelValues("node", "Node", `evenkeel_agent_heartbeat_timestamp_seconds{cluster="$cluster"}`).
			Multi(true).IncludeAll(true).AllValue(".*").Current(all()),
		labelValues("model", "Model", `{__name__=~"evenkeel_moe_balancedness_ratio|evenkeel_kv_cache_query_tokens_total", cluster="$cluster"}`),
	}
}

func all() dashboard.VariableOption {
	text, value := "All", "$__all"
	return dashboard.VariableOption{
		Selected: new(true),
		Text:     dashboard.StringOrArrayOfString{String: &text},
		Value:    dashboard.StringOrArrayOfString{String: &value},
	}
}

// datasource is the Prometheus that the viewer chose. Every query carries it:
// a query without a type of its own is read as one of an unknown kind.
func datasource() common.DataSourceRef {
	return common.DataSourceRef{Type: new("prometheus"), Uid: new("${datasource}")}
}

// series is a query over the time range, one line for each series.
func series(expr, legend string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(datasource()).Expr(expr).LegendFormat(legend).Range()
}

// latest is a query at the end of the time range.
func latest(expr, legend string) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(datasource()).Expr(expr).LegendFormat(legend).Instant()
}

// rows is latest with labels as columns, for tables.
func rows(expr string) *prometheus.DataqueryBuilder {
	return latest(expr, "").Format(prometheus.PromQueryFormatTable)
}
