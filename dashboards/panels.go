package dashboards

import (
	"maps"
	"slices"

	"github.com/grafana/grafana-foundation-sdk/go/barchart"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

type panels = []cog.Builder[dashboard.Panel]

// Panels with one line per node or rank show the ten most telling ones: more
// cannot be told apart, and the variable node picks any other.

func fleetPanels() panels {
	return panels{
		stat.NewPanelBuilder().
			Title("Nodes by state").
			Description("What the remediator holds about each node, and what agents say themselves. Good: all ok. Unknown is not ok: nothing current is known about the node.").
			Datasource(datasource()).
			Height(panelHeight).Span(6).
			Unit(units.Short).
			Orientation(common.VizOrientationHorizontal).
			ColorMode(common.BigValueColorModeValue).
			GraphMode(common.BigValueGraphModeArea).
			ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
			OverrideByName("ok", fixed(good)).
			OverrideByName("bad", fixed(poor)).
			OverrideByName("unknown", fixed(unclear)).
			OverrideByName("bad, say agents", fixed(poor)).
			WithTarget(series(`sum by (state) (evenkeel_remediator_nodes{cluster="$cluster"})`, "{{state}}").RefId("A")).
			WithTarget(series(`sum(cluster:evenkeel_nodes_bad:count{cluster="$cluster"})`, "bad, say agents").RefId("B")),

		lines("Open incidents and holds", "Incidents by the state they are in, and what holds them back. Good: empty, or an incident that moves on. A hold that stands needs a person.", 10).
			Unit(units.Short).Decimals(0).Min(0).
			DrawStyle(common.GraphDrawStyleLine).LineInterpolation(common.LineInterpolationStepAfter).
			NoValue("none").
			WithTarget(series(`sum by (state) (evenkeel_remediator_incidents{cluster="$cluster"}) > 0`, "incident {{state}}").RefId("A")).
			WithTarget(series(`max by (reason) (evenkeel_remediator_holds{cluster="$cluster"}) > 0`, "held by {{reason}}").RefId("B")),

		bars("Actions", "What Evenkeel did in the selected time, by outcome. Good: few, all done. Ambiguous calls are followed by settled ones.", 8).
			Unit(units.Short).Decimals(0).
			NoValue("none").
			WithTarget(latest(`sum by (action, outcome) (increase(evenkeel_remediator_actions_total{cluster="$cluster"}[$__range])) > 0`, "{{action}}: {{outcome}}").RefId("A")),

		list("Findings", "Everything that agents currently say is wrong, one line each. Good: no line. A provisional finding waits for confirmation; a simulated one was injected.", 16,
			"node", "kind", "severity", "action", "device", "pci", "provisional", "simulated").
			OverrideByName("severity", colouredText(severityColors)).
			NoValue("no findings").
			WithTarget(rows(`max by (node, kind, severity, action, device, pci, provisional, simulated) (evenkeel_agent_finding{cluster="$cluster", node=~"$node"})`).RefId("A")),

		bars("Mean time per phase", "Where the minutes of an incident go, over the incidents of the selected time. The provider's replacement is by far the longest; the others should be seconds.", 8).
			Unit(units.Seconds).
			WithTarget(latest(`sum by (phase) (increase(evenkeel_remediator_phase_seconds_sum{cluster="$cluster"}[$__range])) / (sum by (phase) (increase(evenkeel_remediator_phase_seconds_count{cluster="$cluster"}[$__range])) > 0)`, "{{phase}}").RefId("A")),

		lines("Report age", "Time since the newest report of a node, the ten oldest. Good: below a heartbeat. Above the line the node's health is unknown.", 12).
			Unit(units.Seconds).
			Thresholds(steps(good, step{60, poor})).ThresholdsStyle(thresholdLine()).
			WithTarget(series(`topk(10, max by (node) (evenkeel_remediator_node_report_age_seconds{cluster="$cluster", node=~"$node"}))`, "{{node}}").RefId("A")),

		lines("Sources that do not answer", "Nodes on which an agent's source (kernel log, device) should answer and does not. Good: zero everywhere; such a source makes findings unknown, not ok.", 12).
			Unit(units.Short).Decimals(0).Min(0).
			WithTarget(series(`sum by (source) (evenkeel_agent_source_up{cluster="$cluster", node=~"$node"} == bool 0)`, "{{source}}").RefId("A")),
	}
}

func acceleratorPanels() panels {
	return panels{
		lines("GPU temperature", "The hottest GPU of each node, the ten hottest nodes. Good: all within a few degrees. One node apart from the rest points to its cooling.", 8).
			Unit(units.Celsius).
			WithTarget(series(`topk(10, max by (node) (DCGM_FI_DEV_GPU_TEMP{cluster="$cluster", node=~"$node"}))`, "{{node}}").RefId("A")),

		lines("SM clock", "The slowest GPU of each node as a share of its highest clock, the ten slowest nodes. Good: all near the top under load. One slow GPU slows the whole job.", 8).
			Unit(units.PercentUnit).Max(1).
			Legend(legend(lowestFirst)).
			WithTarget(series(`bottomk(10, min by (node) (DCGM_FI_DEV_SM_CLOCK{cluster="$cluster", node=~"$node"} / DCGM_FI_DEV_MAX_SM_CLOCK{cluster="$cluster", node=~"$node"}))`, "{{node}}").RefId("A")),

		lines("Power", "Draw of all GPUs of a node, the ten highest. Good: nodes of one job draw alike. A node far below waits for others or has stopped.", 8).
			Unit(units.Watt).Min(0).
			WithTarget(series(`topk(10, sum by (node) (DCGM_FI_DEV_POWER_USAGE{cluster="$cluster", node=~"$node"}))`, "{{node}}").RefId("A")),
	}
}

func expertPanels() panels {
	return panels{
		lines("Balancedness", "Mean over busiest rank: at 50% every layer takes twice the time that an even spread needs. Good: above 80%. Falling with healthy nodes: place the experts anew.", 8).
			Unit(units.PercentUnit).Min(0).Max(1).
			Legend(legend(lowestFirst)).
			Thresholds(steps(poor, step{0.5, good})).ThresholdsStyle(thresholdLine()).
			WithTarget(series(`min by (replica) (evenkeel_moe_balancedness_ratio{cluster="$cluster", model="$model", method="ratio_of_sums"})`, "{{replica}}: all layers").RefId("A")).
			WithTarget(series(`min by (replica) (cluster_model_replica:evenkeel_moe_layer_balancedness_ratio:min{cluster="$cluster", model="$model"})`, "{{replica}}: worst layer").RefId("B")),

		layers(),

		lines("Hot experts", "Share of its layer's tokens that each of the hottest experts gets, 1 being the hottest, in the replica where it is highest. Good: flat and close together.", 8).
			Unit(units.PercentUnit).Min(0).
			WithTarget(series(`max by (hotness) (evenkeel_moe_expert_share_ratio{cluster="$cluster", model="$model"})`, "expert {{hotness}}").RefId("A")),

		verdicts(),

		list("Ranks that are not normal", "Good: no line. Busy: the rank computes longer because it got more tokens; leave its node alone. Sick: it is slow for what it got; see the node's findings.", 8,
			"replica", "rank", "node", "verdict").
			OverrideByName("verdict", colouredText(verdictColors)).
			NoValue("all ranks are normal").
			WithTarget(rows(`max by (replica, rank, node, verdict) (evenkeel_rank_verdict{cluster="$cluster", model="$model", verdict!="normal"}) == 1`).RefId("A")),

		lines("Tokens per rank", "Top-k assignments that each rank got in the newest window, over all layers, the ten busiest. Good: lines close together. A rank far above is the one the others wait for.", 8).
			Unit(units.SiShort).Min(0).
			WithTarget(series(`topk(10, sum by (replica, rank, node) (evenkeel_moe_rank_tokens{cluster="$cluster", model="$model"}))`, "{{replica}} rank {{rank}} on {{node}}").RefId("A")),

		lines("KV cache hit rate", "Tokens found in any tier per token looked up. Good: steady for steady traffic. No line means no look-ups; the panel beside it shows both numbers.", 12).
			Unit(units.PercentUnit).Min(0).Max(1).
			Legend(legend(lowestFirst)).
			WithTarget(series(`cluster_model:evenkeel_kv_cache_hit_tokens_per_query_tokens:ratio_rate5m{cluster="$cluster", model="$model"}`, "all replicas, 5m").RefId("A")).
			WithTarget(series(`bottomk(10, min by (replica) (evenkeel_kv_cache_hit_ratio{cluster="$cluster", model="$model"}))`, "{{replica}}").RefId("B")),

		lines("KV cache tokens", "Tokens looked up and tokens found, by the tier that supplied them. Good: hits follow look-ups. Each token counts once.", 12).
			Unit("suffix: tok/s").Min(0).
			WithTarget(series(`sum(rate(evenkeel_kv_cache_query_tokens_total{cluster="$cluster", model="$model"}[$__rate_interval]))`, "looked up").RefId("A")).
			WithTarget(series(`sum by (tier) (rate(evenkeel_kv_cache_hit_tokens_total{cluster="$cluster", model="$model"}[$__rate_interval]))`, "found in {{tier}}").RefId("B")),
	}
}

// layers is a bar for each layer. A label is text to Grafana, so it is sorted as a
// number in between.
func layers() *barchart.PanelBuilder {
	convert := func(to string) dashboard.DataTransformerConfig {
		return transform("convertFieldType", map[string]any{"conversions": []map[string]string{{"targetField": "layer", "destinationType": to}}})
	}
	return barchart.NewPanelBuilder().
		Title("Balancedness per layer").
		Description("The replica with the least balance, for each layer. Good: an even row. A few low bars are a few hot experts; all low is a bad placement.").
		Datasource(datasource()).
		Height(panelHeight).Span(8).
		Unit(units.PercentUnit).Min(0).Max(1).
		XField("layer").XTickLabelSpacing(100).
		ShowValue(common.VisibilityModeNever).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(false).DisplayMode(common.LegendDisplayModeHidden)).
		WithTransformation(transform("organize", map[string]any{"excludeByName": map[string]bool{"Time": true}})).
		WithTransformation(convert("number")).
		WithTransformation(transform("sortBy", map[string]any{"sort": []map[string]string{{"field": "layer"}}})).
		WithTransformation(convert("string")).
		WithTarget(rows(`min by (layer) (evenkeel_moe_layer_balancedness_ratio{cluster="$cluster", model="$model"})`).RefId("A"))
}

func verdicts() *timeseries.PanelBuilder {
	panel := lines("Rank verdicts", "Ranks by verdict. Good: all normal. Unknown: a number is missing or stale, so nobody can tell.", 8).
		Unit(units.Short).Decimals(0).Min(0).
		Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal)).
		FillOpacity(40).
		WithTarget(series(`sum by (verdict) (cluster_model_verdict:evenkeel_rank_verdict:sum{cluster="$cluster", model="$model"})`, "{{verdict}}").RefId("A"))
	for _, verdict := range slices.Sorted(maps.Keys(verdictColors)) {
		panel.OverrideByName(verdict, fixed(verdictColors[verdict]))
	}
	return panel
}
