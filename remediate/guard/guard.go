// Package guard holds back what policy asked for. Each [Guard] answers a
// [Request], which carries every fact it needs, with allow or with a [Hold] that
// says why and, where that is known, until when. A [Chain] asks all of them and
// returns every hold, so that a person sees all that stands in the way.
//
// Guards only ever restrain: isolating, stopping a job, rebooting and replacing.
// Giving a node or a job back is restrained by none. The package reads no clock
// and calls nothing.
package guard

import "time"

// Hold says that something must wait.
type Hold struct {
	Guard  string `json:"guard"`
	Reason string `json:"reason"`
	// Until is when the guard will look at it differently, zero if that depends on
	// facts to come.
	Until time.Time `json:"until,omitzero"`
}
