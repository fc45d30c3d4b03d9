package correlate

import (
	"fmt"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Word is the verdict on one rank in one window.
type Word string

// The verdicts.
const (
	// Normal ranks are not slow.
	Normal Word = "normal"
	// Busy ranks are slow because of what they were given. Never a reason to act
	// on a node.
	Busy Word = "busy"
	// Sick ranks are slower than their load explains, and their device or node has
	// evidence of its own against it.
	Sick Word = "sick"
	// Both means that the load makes the rank slow and there is evidence against
	// its device or node as well.
	Both Word = "both"
	// Unknown is every other case: slow for no reason that is established, or not
	// comparable at all.
	Unknown Word = "unknown"
)

// Words lists every verdict.
func Words() []Word { return []Word{Busy, Sick, Both, Normal, Unknown} }

// Verdict is what was made of one rank in one window, with the numbers and
// reasons behind it.
type Verdict struct {
	Word    Word       `json:"verdict"`
	Reasons []string   `json:"reasons"`
	Numbers Comparison `json:"numbers"`
	Health  Health     `json:"health"`
	// WindowSeconds is the length of the window, At its end.
	WindowSeconds float64   `json:"window_seconds"`
	At            time.Time `json:"at"`
}

// Judge gives the verdict on a rank that was compared. presence and health are
// read only for slow ranks; for others they may be zero.
func Judge(c Comparison, presence Presence, health Health) (Word, []string) {
	switch {
	case presence.Disputed:
		return Unknown, []string{presence.Reason}
	case !c.Comparable:
		return Unknown, []string{c.Reason}
	case !c.Slow:
		return Normal, []string{fmt.Sprintf("takes %.2f times the median of %d ranks", c.Time, c.N)}
	}
	reasons := []string{fmt.Sprintf("takes %.2f times the median of %d ranks at %.2f times their mean load; %s", c.Time, c.N, c.Load, prediction(c))}
	sick := health.State == fault.Bad
	switch {
	case c.Explained && sick:
		return Both, append(append(reasons, "the load accounts for it, but:"), health.Reasons...)
	case c.Explained:
		return Busy, append(reasons, "the load accounts for it")
	case !c.Significant:
		return Unknown, append(reasons, fmt.Sprintf("its peers scatter as widely: %.1f MADs", c.ResidualMADs))
	case sick && c.Loaded:
		return Both, append(append(reasons, fmt.Sprintf("the load accounts for part of it, %.1f MADs remain:", c.ResidualMADs)), health.Reasons...)
	case sick:
		return Sick, append(append(reasons, fmt.Sprintf("the load does not account for it, %.1f MADs remain:", c.ResidualMADs)), health.Reasons...)
	}
	reasons = append(reasons, fmt.Sprintf("the load does not account for it, %.1f MADs remain, and nothing is established against the device:", c.ResidualMADs))
	return Unknown, append(reasons, health.Reasons...)
}

func prediction(c Comparison) string {
	if c.Fitted {
		return fmt.Sprintf("its peers' times predict %.2f for that load", c.Expected)
	}
	return fmt.Sprintf("that load can explain up to %.2f", c.Expected)
}
