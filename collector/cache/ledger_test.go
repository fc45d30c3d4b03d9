package cache

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var t0 = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }

// reading has parts that add up to its total.
func reading(seconds int, computed, device, external float64) Reading {
	return Reading{At: at(seconds), Tokens: Tokens{computed, device, external}, Total: computed + device + external}
}

func started(r Reading, seconds int) Reading { r.Started = at(seconds); return r }

func TestLedger(t *testing.T) {
	type observation struct {
		engine  string
		reading Reading
	}
	gap := func(r Reading, by float64) Reading { r.Total += by; return r }
	untotalled := func(r Reading) Reading { r.Total = -1; return r }
	tests := []struct {
		name     string
		observe  []observation
		total    Tokens
		account  Account
		restarts int
	}{
		{
			name:    "first reading of a running engine counts nothing",
			observe: []observation{{"a", reading(0, 1000, 500, 0)}},
		},
		{
			name:    "deltas",
			observe: []observation{{"a", reading(0, 1000, 500, 10)}, {"a", reading(10, 1100, 550, 20)}},
			total:   Tokens{100, 50, 10},
			account: Account{Tokens: Tokens{100, 50, 10}, Checked: true, Observations: 1},
		},
		{
			name:     "a drop of one part is a reset",
			observe:  []observation{{"a", reading(0, 1000, 500, 0)}, {"a", reading(10, 1000, 499, 1)}},
			total:    Tokens{1000, 499, 1},
			account:  Account{Tokens: Tokens{1000, 499, 1}, Checked: true, Observations: 1},
			restarts: 1,
		},
		{
			name:    "near miss: nothing dropped",
			observe: []observation{{"a", reading(0, 1000, 500, 0)}, {"a", reading(10, 1000, 500, 0)}},
			account: Account{Checked: true, Observations: 1},
		},
		{
			name: "a restart that overtook its old counters",
			observe: []observation{
				{"a", started(reading(0, 100, 50, 0), -500)},
				{"a", started(reading(10, 200, 60, 0), 5)},
			},
			total:    Tokens{200, 60, 0},
			account:  Account{Tokens: Tokens{200, 60, 0}, Checked: true, Observations: 1},
			restarts: 1,
		},
		{
			name: "near miss: the start time moved within its slack",
			observe: []observation{
				{"a", started(reading(0, 100, 50, 0), -500)},
				{"a", started(reading(10, 200, 60, 0), -498)},
			},
			total:   Tokens{100, 10, 0},
			account: Account{Tokens: Tokens{100, 10, 0}, Checked: true, Observations: 1},
		},
		{
			name: "an engine that started after the ledger counts from zero",
			observe: []observation{
				{"a", reading(0, 100, 0, 0)}, {"a", reading(10, 200, 0, 0)},
				{"b", started(reading(11, 0, 30, 0), 5)},
			},
			total:   Tokens{100, 30, 0},
			account: Account{Tokens: Tokens{100, 30, 0}, Checked: true, Observations: 2},
		},
		{
			name: "near miss: an engine that started before it does not",
			observe: []observation{
				{"a", reading(0, 100, 0, 0)}, {"a", reading(10, 200, 0, 0)},
				{"b", started(reading(11, 0, 30, 0), -5)},
			},
			total:   Tokens{100, 0, 0},
			account: Account{Tokens: Tokens{100, 0, 0}, Checked: true, Observations: 1},
		},
		{
			name:    "a token counted twice shows as a gap",
			observe: []observation{{"a", reading(0, 0, 0, 0)}, {"a", gap(reading(10, 100, 50, 50), -50)}},
			total:   Tokens{100, 50, 50},
			account: Account{Tokens: Tokens{100, 50, 50}, Gap: -50, Checked: true, Observations: 1},
		},
		{
			name:    "without a total of its own nothing was checked",
			observe: []observation{{"a", untotalled(reading(0, 0, 0, 0))}, {"a", untotalled(reading(10, 100, 50, 50))}},
			total:   Tokens{100, 50, 50},
			account: Account{Tokens: Tokens{100, 50, 50}, Observations: 1},
		},
		{
			name: "what is older than the window has left it",
			observe: []observation{
				{"a", reading(-100, 0, 0, 0)}, {"a", reading(-40, 100, 0, 0)}, {"a", reading(-39, 100, 7, 0)},
			},
			total:   Tokens{100, 7, 0},
			account: Account{Tokens: Tokens{0, 7, 0}, Checked: true, Observations: 1},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := NewLedger(time.Minute)
			for _, o := range test.observe {
				if err := l.Observe(o.engine, o.reading); err != nil {
					t.Fatal(err)
				}
			}
			if got := l.Total(); got != test.total {
				t.Errorf("Total() = %v, want %v", got, test.total)
			}
			if diff := cmp.Diff(test.account, l.Window(at(20))); diff != "" {
				t.Errorf("Window() differs (-want +got):\n%s", diff)
			}
			if got := l.Restarts(); got != test.restarts {
				t.Errorf("Restarts() = %d, want %d", got, test.restarts)
			}
		})
	}
}

// Two engines of very different size: the mean of their rates is 0.5, but 9 of
// 10 tokens were hits.
func TestHitRatioWeighsTokens(t *testing.T) {
	l := NewLedger(time.Minute)
	for engine, r := range map[string]Reading{"large": reading(10, 0, 900, 0), "small": reading(10, 100, 0, 0)} {
		if err := l.Observe(engine, reading(0, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
		if err := l.Observe(engine, r); err != nil {
			t.Fatal(err)
		}
	}
	a := l.Window(at(20))
	if got, ok := a.HitRatio(); !ok || got != 0.9 {
		t.Errorf("HitRatio() = %v, %v, want 0.9, true", got, ok)
	}
	if _, ok := l.Window(at(71)).HitRatio(); ok {
		t.Error("HitRatio() of an empty window is defined")
	}
}

func TestObserveRefuses(t *testing.T) {
	tests := []struct {
		name    string
		reading Reading
		refused bool
	}{
		{"negative", reading(20, -1, 0, 0), true},
		{"near miss: zero", reading(20, 0, 0, 0), false},
		{"not a number", reading(20, math.NaN(), 0, 0), true},
		{"infinite", reading(20, 0, math.Inf(1), 0), true},
		{"total not a number", Reading{At: at(20), Total: math.NaN()}, true},
		{"too large to count", reading(20, 1<<53+2, 0, 0), true},
		{"no time", Reading{}, true},
		{"not newer", reading(10, 1, 1, 1), true},
		{"near miss: newer", reading(11, 1, 1, 1), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := NewLedger(time.Minute)
			if err := l.Observe("a", reading(10, 0, 0, 0)); err != nil {
				t.Fatal(err)
			}
			err := l.Observe("a", test.reading)
			if (err != nil) != test.refused {
				t.Errorf("Observe(%+v) = %v, want refused %v", test.reading, err, test.refused)
			}
		})
	}
}

// Whatever engines do, totals never fall, a window never holds more than the
// total, and the parts of an honest engine leave no gap.
func TestLedgerInvariants(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		l := NewLedger(time.Minute)
		engines := map[string]Tokens{"a": {}, "b": {}, "c": {}}
		before := Tokens{}
		for second := range 120 {
			for name, tokens := range engines {
				switch random.IntN(20) {
				case 0:
					tokens = Tokens{}
				case 1, 2, 3:
					continue // a scrape that was missed
				}
				tokens = tokens.plus(Tokens{float64(random.IntN(100)), float64(random.IntN(100)), float64(random.IntN(100))})
				engines[name] = tokens
				if err := l.Observe(name, reading(second, tokens.Computed, tokens.Device, tokens.External)); err != nil {
					t.Fatal(err)
				}
			}
			total, account := l.Total(), l.Window(at(second))
			if total.Computed < before.Computed || total.Device < before.Device || total.External < before.External {
				t.Fatalf("total fell from %+v to %+v", before, total)
			}
			if account.Tokens.Queries() > total.Queries() || account.Gap != 0 {
				t.Fatalf("window %+v, total %+v", account, total)
			}
			before = total
		}
	}
}
