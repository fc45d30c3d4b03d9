// Package correlate tells a busy rank from a sick one.
//
// A rank that takes longer than its peers may simply have been given more
// tokens. [Compare] therefore conditions each rank's time on its load, with what
// its peers show a token to cost, and says how much of the excess the load
// accounts for. [Judge] adds what independent witnesses say about the rank's
// device and node: only they can make a rank sick, never its slowness alone.
//
// The package decides words, busy | sick | both | normal | unknown, with the
// numbers and reasons behind them. It refuses to guess: too few peers, a rank
// whose place is disputed, stale or missing health are unknown. Nothing here
// acts, and nothing that acts reads a busy verdict.
package correlate

import (
	"errors"
	"fmt"
	"math"
)

// Config holds the thresholds.
type Config struct {
	// SlowRatio is how much longer than the median of its peers a slow rank takes,
	// and how much longer than its load predicts a rank takes that load does not
	// explain. GREYHOUND counts a group as slow from 10 % over the median.
	SlowRatio float64 `yaml:"slow_ratio"`
	// ResidualMADs is how far, in scaled median absolute deviations of the peers'
	// residuals, a rank must lie above its prediction. EROICA uses 5.
	ResidualMADs float64 `yaml:"residual_mads"`
	// MinRanks is the smallest group that is compared at all.
	MinRanks int `yaml:"min_ranks"`
	// ClockRatio is how far below its peers a device's share of its maximum SM
	// clock must lie to be evidence. Time goes with 1/clock, so it is SlowRatio's
	// counterpart.
	ClockRatio float64 `yaml:"clock_ratio"`
	// TemperatureLimitCelsius makes a GPU's temperature evidence. 87 is the
	// slowdown threshold that H100 and H200 boards report.
	TemperatureLimitCelsius float64 `yaml:"temperature_limit_celsius"`
}

// DefaultConfig is what the shipped configuration uses.
func DefaultConfig() Config {
	return Config{SlowRatio: 0.10, ResidualMADs: 5, MinRanks: 4, ClockRatio: 0.10, TemperatureLimitCelsius: 87}
}

// Validate names every threshold that cannot work.
func (c Config) Validate() error {
	var errs []error
	ratio := func(name string, v float64) {
		if !(v > 0 && v < 1) {
			errs = append(errs, fmt.Errorf("%s: must lie between 0 and 1, got %g", name, v))
		}
	}
	ratio("slow_ratio", c.SlowRatio)
	ratio("clock_ratio", c.ClockRatio)
	if !(c.ResidualMADs > 0 && c.ResidualMADs < 1000) {
		errs = append(errs, fmt.Errorf("residual_mads: must be above 0 and below 1000, got %g", c.ResidualMADs))
	}
	if c.MinRanks < 3 {
		errs = append(errs, fmt.Errorf("min_ranks: must be at least 3, got %d", c.MinRanks))
	}
	if !(c.TemperatureLimitCelsius > 0 && c.TemperatureLimitCelsius < 200) {
		errs = append(errs, fmt.Errorf("temperature_limit_celsius: must be above 0 and below 200, got %g", c.TemperatureLimitCelsius))
	}
	return errors.Join(errs...)
}

// Rank is one rank's window.
type Rank struct {
	Rank int
	// Group says which ranks are comparable: those that share layers.
	Group int
	// Load is the rank's work in the window, in any unit common to its group.
	Load float64
	// Seconds is the time it spent computing; zero means not measured.
	Seconds float64
}

// Comparison is one rank beside its peers.
type Comparison struct {
	Rank  int `json:"rank"`
	Group int `json:"group"`
	// N is the number of measured ranks in the group, this one included.
	N int `json:"n"`
	// Load is the rank's load over the mean of its group.
	Load float64 `json:"load"`
	// Time is the rank's time over the median of its group.
	Time float64 `json:"time"`
	// Expected is what the load predicts for Time.
	Expected float64 `json:"expected"`
	// Residual is Time less Expected, and ResidualMADs the same in scaled MADs of
	// the peers' residuals.
	Residual     float64 `json:"residual"`
	ResidualMADs float64 `json:"residual_mads"`
	// Fitted says whether the peers' loads differ enough to show what a token
	// costs. If not, Expected is the most that load can explain: time in
	// proportion to load.
	Fitted bool `json:"fitted"`
	// Comparable is false for a rank that cannot be compared; Reason says why.
	Comparable bool   `json:"comparable"`
	Reason     string `json:"reason,omitempty"`

	Slow bool `json:"slow"`
	// Explained is true if the load accounts for the slowness: conditioned on its
	// load the rank is not slow, and the load predicts most of the excess.
	Explained bool `json:"explained"`
	// Loaded is true if its load alone would make the rank slow.
	Loaded bool `json:"loaded"`
	// Significant is true if the residual stands out from the peers' spread.
	Significant bool `json:"significant"`
}

// Compare compares each rank with the others of its group. The results are in
// the order of ranks.
func Compare(c Config, ranks []Rank) []Comparison {
	members := make(map[int][]int)
	for i, r := range ranks {
		if r.Seconds > 0 && !math.IsInf(r.Seconds, 0) && r.Load >= 0 && !math.IsInf(r.Load, 0) {
			members[r.Group] = append(members[r.Group], i)
		}
	}
	out := make([]Comparison, len(ranks))
	for i, r := range ranks {
		out[i] = Comparison{Rank: r.Rank, Group: r.Group, N: len(members[r.Group]), Reason: "no time was measured for the rank"}
	}
	for _, group := range members {
		compareGroup(c, ranks, group, out)
	}
	return out
}

func compareGroup(c Config, ranks []Rank, group []int, out []Comparison) {
	if len(group) < c.MinRanks {
		for _, i := range group {
			out[i].Reason = fmt.Sprintf("only %d ranks share its layers, %d are needed to compare", len(group), c.MinRanks)
		}
		return
	}
	points := normalise(ranks, group)
	slopes := newSlopes(points)
	over := 1 + c.SlowRatio
	everyone := slopes.without(nobody)
	for k, i := range group {
		o := &out[i]
		o.Comparable, o.Reason = true, ""
		o.Load, o.Time = points[k].load, points[k].time
		o.Slow = exceeds(o.Time, over)
		fit := everyone
		if o.Slow {
			fit = slopes.without(k)
		}
		o.Fitted = fit.fitted
		o.Expected = fit.at(o.Load)
		o.Residual = o.Time - o.Expected
		o.ResidualMADs = o.Residual / fit.spread
		o.Loaded = exceeds(o.Expected, over)
		o.Significant = exceeds(o.ResidualMADs, c.ResidualMADs)
		o.Explained = o.Slow && !exceeds(o.Time, over*o.Expected) && o.Expected-1 >= (o.Time-1)/2
	}
}

// exceeds is a > b beyond the rounding of the arithmetic that led to both, so
// that a value right on a threshold is on its quiet side.
func exceeds(a, b float64) bool { return a > b*(1+1e-9) }
