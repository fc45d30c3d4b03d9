// Package cache accounts for prompt tokens by the tier that supplied them. Each
// token is counted once, in one tier; a hit rate is always one sum of tokens
// over another, over the same window and the same engines.
//
// It decides how cumulative counters become deltas across resets and restarts
// ([Ledger.Observe]). It refuses to average rates, and to count what was there
// before it first looked: the counter of an engine that was already running
// starts at its value, not at zero.
package cache

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Tokens are prompt tokens by the tier that supplied them.
type Tokens struct {
	// Computed were computed in the prefill.
	Computed float64 `json:"computed"`
	// Device were found in the engine's own KV cache, in device memory.
	Device float64 `json:"device"`
	// External came over a KV connector: another engine, host memory, a remote
	// cache or storage.
	External float64 `json:"external"`
}

// Queries is every token that was asked for: the denominator.
func (t Tokens) Queries() float64 { return t.Computed + t.Device + t.External }

// Hits is every token that some tier supplied: the numerator.
func (t Tokens) Hits() float64 { return t.Device + t.External }

func (t Tokens) plus(u Tokens) Tokens {
	return Tokens{Computed: t.Computed + u.Computed, Device: t.Device + u.Device, External: t.External + u.External}
}

func (t Tokens) minus(u Tokens) Tokens {
	return Tokens{Computed: t.Computed - u.Computed, Device: t.Device - u.Device, External: t.External - u.External}
}

// Reading is the cumulative counters of one engine at one time.
type Reading struct {
	At time.Time
	// Started is when the engine's counters began at zero, zero if it does not say.
	Started time.Time
	Tokens  Tokens
	// Total is the engine's own count of prompt tokens, which the parts must add
	// up to; negative if it has none that is independent of the parts.
	Total float64
}

// maxTokens is where float64 stops counting by ones; no counter gets there
// honestly.
const maxTokens = 1 << 53

// Validate refuses a reading that cannot be cumulative counters.
func (r Reading) Validate() error {
	for _, c := range []struct {
		name  string
		value float64
	}{{"computed", r.Tokens.Computed}, {"device", r.Tokens.Device}, {"external", r.Tokens.External}} {
		if !(c.value >= 0 && c.value <= maxTokens) {
			return fmt.Errorf("%s tokens: %g cannot be a counter", c.name, c.value)
		}
	}
	if math.IsNaN(r.Total) || r.Total > maxTokens {
		return fmt.Errorf("total tokens: %g cannot be a counter", r.Total)
	}
	if r.At.IsZero() {
		return errors.New("reading carries no time")
	}
	return nil
}

// Ledger adds the deltas of a replica's engines up. It is not safe for
// concurrent use.
type Ledger struct {
	window   time.Duration
	engines  map[string]Reading
	began    time.Time
	entries  []entry // oldest first
	total    Tokens
	restarts int
}

// entry is what one observation added.
type entry struct {
	at     time.Time
	tokens Tokens
	// gap is the engine's own total less the sum of the parts; checked says
	// whether the engine has such a total.
	gap     float64
	checked bool
}

// maxEntries bounds the memory of a ledger: an hour of 16 engines every 15 s.
const maxEntries = 4096

// NewLedger accounts over the given window.
func NewLedger(window time.Duration) *Ledger {
	return &Ledger{window: window, engines: make(map[string]Reading)}
}

// Observe adds what the engine counted since its last reading. An engine seen
// for the first time adds nothing, unless it started after the ledger did: then
// all it counted is new. A reading that is older than the last is refused.
func (l *Ledger) Observe(engine string, r Reading) error {
	if err := r.Validate(); err != nil {
		return err
	}
	last, known := l.engines[engine]
	if known && !r.At.After(last.At) {
		return fmt.Errorf("reading at %s is not newer than the last", r.At.Format(time.RFC3339Nano))
	}
	if l.began.IsZero() {
		l.began = r.At
	}
	l.engines[engine] = r
	var base Reading
	switch {
	case !known && r.Started.After(l.began):
	case !known:
		return nil
	case restarted(last, r):
		l.restarts++
	default:
		base = last
	}
	e := entry{at: r.At, tokens: r.Tokens.minus(base.Tokens)}
	if r.Total >= 0 && base.Total >= 0 {
		e.checked = true
		e.gap = r.Total - base.Total - e.tokens.Queries()
	}
	l.total = l.total.plus(e.tokens)
	l.entries = append(l.entries, e)
	if len(l.entries) > maxEntries {
		l.entries = append(l.entries[:0], l.entries[len(l.entries)-maxEntries:]...)
	}
	return nil
}

// startSlack is how much two statements of one start time may differ: process
// start times are computed from clock ticks since boot.
const startSlack = 2 * time.Second

// restarted reports whether r's counters began again after last. A later start
// time tells also where the counters have already passed their old value.
func restarted(last, r Reading) bool {
	if !last.Started.IsZero() && r.Started.Sub(last.Started) > startSlack {
		return true
	}
	return r.Tokens.Computed < last.Tokens.Computed || r.Tokens.Device < last.Tokens.Device ||
		r.Tokens.External < last.Tokens.External || r.Total >= 0 && r.Total < last.Total
}

// Forget drops an engine that is no longer a target. What it counted stays
// counted.
func (l *Ledger) Forget(engine string) { delete(l.engines, engine) }

// Total is everything counted since the ledger began. It only rises.
func (l *Ledger) Total() Tokens { return l.total }

// Restarts counts how often an engine's counters began again.
func (l *Ledger) Restarts() int { return l.restarts }

// Account is what a window holds.
type Account struct {
	Tokens Tokens
	// Gap is the engines' own totals less the sum of their parts. It is zero if
	// each token was counted once; Checked says whether every engine has a total
	// to compare with.
	Gap     float64
	Checked bool
	// Observations is the number of readings that the account rests on.
	Observations int
}

// HitRatio is hits over queries, undefined if nothing was asked for.
func (a Account) HitRatio() (float64, bool) {
	if a.Tokens.Queries() <= 0 {
		return 0, false
	}
	return a.Tokens.Hits() / a.Tokens.Queries(), true
}

// Window is the account of the window that ends now.
func (l *Ledger) Window(now time.Time) Account {
	oldest := now.Add(-l.window)
	keep := 0
	for keep < len(l.entries) && !l.entries[keep].at.After(oldest) {
		keep++
	}
	l.entries = append(l.entries[:0], l.entries[keep:]...)
	a := Account{Checked: len(l.entries) > 0, Observations: len(l.entries)}
	for _, e := range l.entries {
		a.Tokens = a.Tokens.plus(e.tokens)
		a.Gap += e.gap
		a.Checked = a.Checked && e.checked
	}
	return a
}
