package dashboards

import (
	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

const panelHeight = 8 // grid rows of about 30 pixels

// The colours of states and verdicts, the same in every panel.
const (
	good    = "green"
	caution = "orange"
	poor    = "red"
	neutral = "blue"
	unclear = "purple" // not known: neither good nor bad
)

// lines is a panel of lines over time, the highest first in its legend.
func lines(title, description string, width uint32) *timeseries.PanelBuilder {
	return timeseries.NewPanelBuilder().
		Title(title).
		Description(description).
		Datasource(datasource()).
		Height(panelHeight).
		Span(width).
		LineWidth(1).
		FillOpacity(5).
		ShowPoints(common.VisibilityModeAuto).
		Legend(legend(highestFirst)).
		Tooltip(common.NewVizTooltipOptionsBuilder().
			Mode(common.TooltipDisplayModeMulti).
			Sort(common.SortOrderDescending))
}

// The orders of a legend: the line that matters most comes first.
const (
	highestFirst = true
	lowestFirst  = false
)

// legend is a table that a person can read.
func legend(descending bool) *common.VizLegendOptionsBuilder {
	calc := "min"
	if descending {
		calc = "max"
	}
	return common.NewVizLegendOptionsBuilder().
		DisplayMode(common.LegendDisplayModeTable).
		Placement(common.LegendPlacementBottom).
		ShowLegend(true).
		Calcs([]string{"lastNotNull", calc}).
		SortBy("Last *").
		SortDesc(descending)
}

// bars is a panel of horizontal bars, one for each series.
func bars(title, description string, width uint32) *bargauge.PanelBuilder {
	return bargauge.NewPanelBuilder().
		Title(title).
		Description(description).
		Datasource(datasource()).
		Height(panelHeight).
		Span(width).
		Orientation(common.VizOrientationHorizontal).
		DisplayMode(common.BarGaugeDisplayModeBasic).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		Thresholds(steps(neutral)).
		Min(0)
}

// list is a table with labels as columns; columns gives their order.
func list(title, description string, width uint32, columns ...string) *table.PanelBuilder {
	order := map[string]int{}
	for i, column := range columns {
		order[column] = i
	}
	return table.NewPanelBuilder().
		Title(title).
		Description(description).
		Datasource(datasource()).
		Height(panelHeight).
		Span(width).
		Filterable(true).
		WithTransformation(transform("organize", map[string]any{
			"excludeByName": map[string]bool{"Time": true, "Value": true},
			"indexByName":   order,
		}))
}

// transform reshapes a table before it is shown.
func transform(id string, options map[string]any) dashboard.DataTransformerConfig {
	return dashboard.DataTransformerConfig{Id: id, Options: options}
}

// step is a threshold: the colour from this value on.
type step struct {
	from  float64
	color string
}

// steps is base below the first step.
func steps(base string, above ...step) *dashboard.ThresholdsConfigBuilder {
	thresholds := []dashboard.Threshold{{Color: base}}
	for _, s := range above {
		thresholds = append(thresholds, dashboard.Threshold{Value: &s.from, Color: s.color})
	}
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(thresholds)
}

// thresholdLine draws a threshold as a dashed line.
func thresholdLine() *common.GraphThresholdsStyleConfigBuilder {
	return common.NewGraphThresholdsStyleConfigBuilder().Mode(common.GraphThresholdsStyleModeDashed)
}

// fixed colours one series.
func fixed(color string) []dashboard.DynamicConfigValue {
	return []dashboard.DynamicConfigValue{{Id: "color", Value: map[string]string{"mode": "fixed", "fixedColor": color}}}
}

// colouredText shows the values of a table's column in colours.
func colouredText(colors map[string]string) []dashboard.DynamicConfigValue {
	options := map[string]map[string]string{}
	for value, color := range colors {
		options[value] = map[string]string{"color": color, "text": value}
	}
	return []dashboard.DynamicConfigValue{
		{Id: "mappings", Value: []map[string]any{{"type": "value", "options": options}}},
		{Id: "custom.cellOptions", Value: map[string]string{"type": "color-text"}},
	}
}

var (
	severityColors = map[string]string{"info": neutral, "warning": caution, "error": poor, "fatal": poor}
	verdictColors  = map[string]string{"normal": good, "busy": caution, "sick": poor, "both": poor, "unknown": unclear}
)
