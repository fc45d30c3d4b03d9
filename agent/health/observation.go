package health

import (
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Observation is what a source says about one kind of fault on one subject at
// one moment.
type Observation struct {
	// Time is when it happened, as far as the source knows.
	Time   time.Time
	Source string
	Kind   fault.Kind
	// Subject names the thing inside the node; the engine fills in node and
	// instance. A source gives every name of the subject that it knows.
	Subject fault.Subject
	State   fault.State
	// Clear says what an OK observation is evidence of. One without it ends nothing.
	Clear fault.Clear
	// Evidence needs its Authority and Text, and Sequence where the source numbers
	// its records; the engine fills in the rest.
	Evidence fault.Evidence
	// Action replaces the catalogue's, where the evidence itself names a remedy.
	Action fault.Action
	// Severity replaces the catalogue's, where the evidence itself is weaker.
	Severity fault.Severity
	// Simulated marks an observation of an injected source.
	Simulated bool
}
