package expert

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// post makes a valid load of ranks 0..n-1 around counts and placement.
func post(n int, counts Counts, placement Placement) *Load {
	l := &Load{Schema: 1, Cluster: "c", Model: "m", Replica: "r0", WindowSeconds: 10, Generation: 1, TopK: 8, Counts: counts, Placement: placement}
	for rank := range n {
		l.Ranks = append(l.Ranks, Rank{Rank: rank, Node: fmt.Sprintf("n%d", rank), Seconds: 1})
	}
	return l
}

func TestMeasure(t *testing.T) {
	type figures struct {
		layers      []float64 // -1 for undefined
		mean, sums  float64   // -1 for undefined
		assignments []float64
		groups      []int
	}
	tests := []struct {
		name string
		load *Load
		want figures
	}{
		{
			name: "balanced",
			load: post(2, Counts{{5, 5}}, Placement{{{0}, {1}}}),
			want: figures{[]float64{1}, 1, 1, []float64{5, 5}, []int{0, 0}},
		},
		{
			name: "near miss of balanced",
			load: post(2, Counts{{5, 6}}, Placement{{{0}, {1}}}),
			want: figures{[]float64{5.5 / 6}, 5.5 / 6, 5.5 / 6, []float64{5, 6}, []int{0, 0}},
		},
		{
			// The rank that is hot in one layer is idle in the other. Summed over layers
			// the ranks look equal, yet each layer waits for its hot rank.
			name: "skew that cancels over layers",
			load: post(2, Counts{{30, 10}, {100, 300}}, Placement{{{0}, {1}}, {{0}, {1}}}),
			want: figures{[]float64{20.0 / 30, 200.0 / 300}, 2.0 / 3, 220.0 / 330, []float64{130, 310}, []int{0, 0}},
		},
		{
			name: "mean of ratios and ratio of sums differ",
			load: post(2, Counts{{10, 10}, {300, 100}}, Placement{{{0}, {1}}, {{0}, {1}}}),
			want: figures{[]float64{1, 200.0 / 300}, (1 + 2.0/3) / 2, 210.0 / 310, []float64{310, 110}, []int{0, 0}},
		},
		{
			name: "no load at all",
			load: post(2, Counts{{0, 0}}, Placement{{{0}, {1}}}),
			want: figures{[]float64{-1}, -1, -1, []float64{0, 0}, []int{0, 0}},
		},
		{
			name: "a layer without load is left out of the mean",
			load: post(2, Counts{{0, 0}, {1, 3}}, Placement{{{0}, {1}}, {{0}, {1}}}),
			want: figures{[]float64{-1, 2.0 / 3}, 2.0 / 3, 2.0 / 3, []float64{1, 3}, []int{0, 0}},
		},
		{
			name: "one rank is balanced",
			load: post(1, Counts{{7, 1}}, Placement{{{0}, {0}}}),
			want: figures{[]float64{1}, 1, 1, []float64{8}, []int{0}},
		},
		{
			name: "replicas of an expert share its load",
			load: post(2, Counts{{9, 1}}, Placement{{{0, 1}, {1}}}),
			want: figures{[]float64{5 / 5.5}, 5 / 5.5, 5 / 5.5, []float64{4.5, 5.5}, []int{0, 0}},
		},
		{
			name: "a rank that holds two replicas takes two shares",
			load: post(2, Counts{{9, 0}}, Placement{{{0, 0, 1}, {1}}}),
			want: figures{[]float64{4.5 / 6}, 4.5 / 6, 4.5 / 6, []float64{6, 3}, []int{0, 0}},
		},
		{
			name: "pipeline stages are apart",
			load: post(4, Counts{{4, 2}, {1, 3}}, Placement{{{0}, {2}}, {{1}, {3}}}),
			want: figures{[]float64{3.0 / 4, 2.0 / 3}, (3.0/4 + 2.0/3) / 2, 5.0 / 7, []float64{4, 1, 2, 3}, []int{0, 1, 0, 1}},
		},
		{
			name: "the largest counts do not overflow",
			load: post(2, Counts{{MaxCount, MaxCount}, {MaxCount, 0}}, Placement{{{0}, {1}}, {{0}, {1}}}),
			want: figures{[]float64{1, 0.5}, 0.75, 0.75, []float64{2 * MaxCount, MaxCount}, []int{0, 0}},
		},
	}
	or := func(v float64, ok bool) float64 {
		if !ok {
			return -1
		}
		return v
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := test.load.Validate(); err != nil {
				t.Fatal(err)
			}
			b := Measure(test.load, 1)
			got := figures{mean: or(b.MeanOfRatios()), sums: or(b.RatioOfSums())}
			for _, l := range b.Layers {
				got.layers = append(got.layers, or(l.Balancedness()))
			}
			for _, r := range b.Ranks {
				got.assignments = append(got.assignments, r.Assignments)
				got.groups = append(got.groups, r.Group)
			}
			near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-12 })
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(figures{}), near); diff != "" {
				t.Errorf("Measure() differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHotExperts(t *testing.T) {
	l := post(2, Counts{{10, 30, 10}, {1, 1, 2}}, Placement{{{0}, {1}, {0, 1}}, {{0}, {1}, {0}}})
	want := []HotExpert{
		{Layer: 0, Expert: 1, Assignments: 30, Share: 0.6, Ranks: []int32{1}},
		{Layer: 1, Expert: 2, Assignments: 2, Share: 0.5, Ranks: []int32{0}},
		{Layer: 1, Expert: 0, Assignments: 1, Share: 0.25, Ranks: []int32{0}},
		{Layer: 1, Expert: 1, Assignments: 1, Share: 0.25, Ranks: []int32{1}},
		{Layer: 0, Expert: 0, Assignments: 10, Share: 0.2, Ranks: []int32{0}},
		{Layer: 0, Expert: 2, Assignments: 10, Share: 0.2, Ranks: []int32{0, 1}},
	}
	for k := range len(want) + 2 {
		got := Measure(l, k).Hot
		if diff := cmp.Diff(want[:min(k, len(want))], got); diff != "" && len(got)+k > 0 {
			t.Errorf("hottest %d differ (-want +got):\n%s", k, diff)
		}
	}
	if got := Measure(post(1, Counts{{0, 0}}, Placement{{{0}, {0}}}), 3).Hot; len(got) != 0 {
		t.Errorf("hottest without load = %v, want none", got)
	}
}

// naive computes the figures the long way, in exact fractions.
func naive(l *Load) (layers []*big.Rat, mean, sums *big.Rat, byRank map[int32]*big.Rat) {
	byRank = make(map[int32]*big.Rat)
	mean, means, maxima := new(big.Rat), new(big.Rat), new(big.Rat)
	defined := int64(0)
	for layer := range l.Counts {
		load := make(map[int32]*big.Rat)
		for e, n := range l.Counts[layer] {
			for _, rank := range l.Placement[layer][e] {
				if load[rank] == nil {
					load[rank] = new(big.Rat)
				}
				load[rank].Add(load[rank], big.NewRat(n, int64(len(l.Placement[layer][e]))))
			}
		}
		sum, peak := new(big.Rat), new(big.Rat)
		for rank, x := range load {
			sum.Add(sum, x)
			if x.Cmp(peak) > 0 {
				peak.Set(x)
			}
			if byRank[rank] == nil {
				byRank[rank] = new(big.Rat)
			}
			byRank[rank].Add(byRank[rank], x)
		}
		sum.Quo(sum, big.NewRat(int64(len(load)), 1))
		means.Add(means, sum)
		maxima.Add(maxima, peak)
		if peak.Sign() == 0 {
			layers = append(layers, nil)
			continue
		}
		layers = append(layers, new(big.Rat).Quo(sum, peak))
		mean.Add(mean, layers[layer])
		defined++
	}
	if defined == 0 {
		return layers, nil, nil, byRank
	}
	return layers, mean.Quo(mean, big.NewRat(defined, 1)), means.Quo(means, maxima), byRank
}

func TestMeasureAgreesWithExactArithmetic(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for range 500 {
		l := randomLoad(random)
		b := Measure(l, 4)
		layers, mean, sums, byRank := naive(l)
		near := func(what string, got float64, ok bool, want *big.Rat) {
			t.Helper()
			if ok != (want != nil) {
				t.Fatalf("%s defined = %v, want %v", what, ok, want != nil)
			}
			if !ok {
				return
			}
			exact, _ := want.Float64()
			if math.Abs(got-exact) > 1e-9*math.Max(1, math.Abs(exact)) {
				t.Fatalf("%s = %.17g, want %.17g", what, got, exact)
			}
		}
		for i, layer := range b.Layers {
			v, ok := layer.Balancedness()
			near(fmt.Sprintf("balancedness of layer %d", i), v, ok, layers[i])
			if ok && !(v > 0 && v <= 1) {
				t.Fatalf("balancedness %v is outside (0, 1]", v)
			}
		}
		v, ok := b.MeanOfRatios()
		near("mean of ratios", v, ok, mean)
		v, ok = b.RatioOfSums()
		near("ratio of sums", v, ok, sums)
		for _, r := range b.Ranks {
			want := byRank[int32(r.Rank)]
			if want == nil {
				want = new(big.Rat)
			}
			near("assignments", r.Assignments, true, want)
		}
	}
}

func randomLoad(random *rand.Rand) *Load {
	layers, experts, ranks := 1+random.IntN(6), 1+random.IntN(40), 1+random.IntN(9)
	l := post(ranks, nil, nil)
	scale := int64(1) << random.IntN(41)
	for range layers {
		counts := make([]int64, experts)
		placement := make([][]int32, experts)
		for e := range counts {
			if random.IntN(4) > 0 {
				counts[e] = random.Int64N(scale)
			}
			for range 1 + random.IntN(3) {
				placement[e] = append(placement[e], int32(random.IntN(ranks)))
			}
		}
		l.Counts = append(l.Counts, counts)
		l.Placement = append(l.Placement, placement)
	}
	return l
}

func BenchmarkMeasure(b *testing.B) {
	l := deepSeek()
	for b.Loop() {
		Measure(l, 8)
	}
}

// deepSeek is a window of a model with 58 MoE layers of 256 experts on 32 ranks.
func deepSeek() *Load {
	random := rand.New(rand.NewPCG(1, 1))
	l := post(32, nil, nil)
	for range 58 {
		counts := make([]int64, 256)
		placement := make([][]int32, 256)
		for e := range counts {
			counts[e] = int64(random.ExpFloat64() * 50_000)
			placement[e] = []int32{int32(e / 8)}
		}
		l.Counts = append(l.Counts, counts)
		l.Placement = append(l.Placement, placement)
	}
	return l
}
