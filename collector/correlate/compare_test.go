package correlate

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// group makes one group of ranks from load, seconds pairs.
func group(pairs ...float64) []Rank {
	var ranks []Rank
	for i := 0; i < len(pairs); i += 2 {
		ranks = append(ranks, Rank{Rank: i / 2, Load: pairs[i], Seconds: pairs[i+1]})
	}
	return ranks
}

// steady are seven ranks whose loads differ a little and whose time is 0.2 s
// and 1 ms per unit.
func steady(last ...float64) []Rank {
	pairs := []float64{700, 0.9, 760, 0.96, 800, 1.0, 800, 1.0, 840, 1.04, 880, 1.08, 940, 1.14}
	return group(append(pairs, last...)...)
}

// even are seven ranks of equal load: they do not show what a token costs.
func even(last ...float64) []Rank {
	return group(append([]float64{800, 1, 800, 1, 800, 1, 800, 1, 800, 1, 800, 1, 800, 1}, last...)...)
}

// The rank that is looked at is the last of its group.
func TestCompare(t *testing.T) {
	tests := []struct {
		name                                  string
		ranks                                 []Rank
		slow, explained, loaded, fitted, sure bool
	}{
		{name: "typical", ranks: steady(800, 1.0), fitted: true},
		{name: "slow from above 10 % over the median", ranks: even(800, 1.1001), slow: true, sure: true},
		{name: "near miss: 10 %", ranks: even(800, 1.1), sure: true},

		{name: "the hot rank takes what its load predicts", ranks: steady(1600, 1.8), slow: true, explained: true, loaded: true, fitted: true},
		{name: "10 % over the prediction is still explained", ranks: steady(1600, 1.98), slow: true, explained: true, loaded: true, fitted: true, sure: true},
		{name: "near miss: more than 10 % over it", ranks: steady(1600, 1.9801), slow: true, loaded: true, fitted: true, sure: true},

		{name: "slow at typical load", ranks: steady(800, 1.5), slow: true, fitted: true, sure: true},
		{name: "slow at less than typical load", ranks: steady(600, 1.5), slow: true, fitted: true, sure: true},
		// Both take 1.13 times the median, which is within 10 % of either prediction.
		{name: "the load predicts a quarter of the excess", ranks: steady(850, 1.15), slow: true, fitted: true, sure: true},
		{name: "near miss: it predicts most of it", ranks: steady(920, 1.15), slow: true, explained: true, fitted: true},

		{
			// The peers' times rise faster than their loads. No load does that, so it
			// excuses nobody beyond proportion.
			name:  "load explains no more than proportional time",
			ranks: group(700, 0.7, 760, 0.85, 800, 1, 800, 1, 840, 1.15, 880, 1.3, 940, 1.5, 1600, 3), slow: true, loaded: true, fitted: true, sure: true,
		},

		{name: "without a fit load explains proportional time", ranks: even(1600, 2.0), slow: true, explained: true, loaded: true},
		{name: "and 10 % more", ranks: even(1600, 2.2), slow: true, explained: true, loaded: true, sure: true},
		{name: "near miss: but no more", ranks: even(1600, 2.2001), slow: true, loaded: true, sure: true},
		{name: "no load at all and slow", ranks: even(0, 2.0), slow: true, sure: true},

		{
			// MAD 0.1 x 1.4826: 1.7 is 4.7 of them above 1, 1.8 is 5.4.
			name:  "a residual within the peers' scatter",
			ranks: group(800, 0.8, 800, 0.9, 800, 0.9, 800, 1, 800, 1.1, 800, 1.1, 800, 1.2, 800, 1.7), slow: true,
		},
		{
			name:  "near miss: one beyond it",
			ranks: group(800, 0.8, 800, 0.9, 800, 0.9, 800, 1, 800, 1.1, 800, 1.1, 800, 1.2, 800, 1.85), slow: true, sure: true,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			all := Compare(DefaultConfig(), test.ranks)
			c := all[len(all)-1]
			if !c.Comparable || c.N != len(test.ranks) {
				t.Fatalf("not comparable: %+v", c)
			}
			if c.Slow != test.slow || c.Explained != test.explained || c.Loaded != test.loaded || c.Fitted != test.fitted || c.Significant != test.sure {
				t.Errorf("Compare() = %+v, want slow %v, explained %v, loaded %v, fitted %v, significant %v",
					c, test.slow, test.explained, test.loaded, test.fitted, test.sure)
			}
		})
	}
}

func TestCompareNeedsPeers(t *testing.T) {
	tests := []struct {
		name   string
		ranks  []Rank
		reason string
	}{
		{"too few", group(1, 1, 1, 1, 1, 1), "only 3 ranks share its layers, 4 are needed"},
		{"near miss: enough", group(1, 1, 1, 1, 1, 1, 1, 1), ""},
		{"one is not measured", group(1, 1, 1, 1, 1, 1, 1, 0), "no time was measured"},
		{"not a number", group(1, 1, 1, 1, 1, 1, 1, 1, 1, math.NaN()), "no time was measured"},
		{"none", nil, ""},
	}
	for _, test := range tests {
		all := Compare(DefaultConfig(), test.ranks)
		if len(all) == 0 {
			continue
		}
		last := all[len(all)-1]
		if last.Comparable != (test.reason == "") || !strings.Contains(last.Reason, test.reason) {
			t.Errorf("%s: comparable %v, reason %q, want reason %q", test.name, last.Comparable, last.Reason, test.reason)
		}
	}
}

// A stage of a pipeline that has more to do than another is no reason to call
// its ranks slow.
func TestCompareKeepsStagesApart(t *testing.T) {
	ranks := even(800, 1)
	for i, r := range even(800, 1) {
		r.Rank, r.Group, r.Seconds = 8+i, 1, 3
		ranks = append(ranks, r)
	}
	for _, c := range Compare(DefaultConfig(), ranks) {
		if c.Slow {
			t.Errorf("rank %d of stage %d is slow beside its own stage: %+v", c.Rank, c.Group, c)
		}
	}
}

// Negative control: whatever the skew of the load, if time follows it no rank is
// slow without explanation. Positive control: a rank that is half as slow again
// is found among them.
func TestCompareOnRandomLoads(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	config := DefaultConfig()
	for trial := range 400 {
		n := 8 + random.IntN(120)
		offset, perUnit := random.Float64(), 1e-3*random.Float64()
		ranks := make([]Rank, n)
		for i := range ranks {
			load := 500 * (1 + random.ExpFloat64())
			ranks[i] = Rank{Rank: i, Load: load, Seconds: (offset + perUnit*load) * (1 + 0.005*random.NormFloat64())}
		}
		for _, c := range Compare(config, ranks) {
			if c.Slow && !c.Explained {
				t.Fatalf("trial %d: rank is blamed for its load: %+v", trial, c)
			}
		}
		victim := random.IntN(n)
		ranks[victim].Seconds *= 1.5
		if c := Compare(config, ranks)[victim]; c.Slow && (c.Explained || !c.Significant) {
			t.Fatalf("trial %d: a rank of 1.5 times its time is not found: %+v", trial, c)
		}
	}
}

// The order of ranks and the unit of load change nothing.
func TestCompareInvariants(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	base := steady(1600, 2.5)
	want := Compare(DefaultConfig(), base)
	shuffled := append([]Rank(nil), base...)
	random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	for i := range shuffled {
		shuffled[i].Load *= 1e6
	}
	for _, got := range Compare(DefaultConfig(), shuffled) {
		w := want[got.Rank]
		if math.Abs(got.Expected-w.Expected) > 1e-9 || got.Slow != w.Slow || got.Explained != w.Explained || got.Loaded != w.Loaded {
			t.Errorf("rank %d = %+v, want %+v", got.Rank, got, w)
		}
	}
}

func BenchmarkCompare(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 1))
	ranks := make([]Rank, 320)
	for i := range ranks {
		load := 500 * (1 + random.ExpFloat64())
		ranks[i] = Rank{Rank: i, Load: load, Seconds: 0.2 + 1e-3*load}
	}
	for b.Loop() {
		Compare(DefaultConfig(), ranks)
	}
}
