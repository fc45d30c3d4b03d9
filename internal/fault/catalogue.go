package fault

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Kind is the id of a row of the catalogue, for example "nvidia.xid.79".
type Kind string

// Family groups kinds that can have a common cause outside the node: many nodes
// with faults of one family at once point to the fabric, the file system or a
// change, not to the nodes.
type Family string

// The families.
const (
	FamilyGPU         Family = "gpu"
	FamilyMemory      Family = "memory"
	FamilyApplication Family = "application"
	FamilyFabric      Family = "fabric"
	FamilyThermal     Family = "thermal"
	FamilyNeuron      Family = "neuron"
	FamilyNetwork     Family = "network"
	FamilyStorage     Family = "storage"
	FamilyHost        Family = "host"
	FamilyAgent       Family = "agent"
)

// Culprit says whose fault a kind is, as far as the kind alone tells.
type Culprit string

// The culprits.
const (
	Hardware    Culprit = "hardware"
	Application Culprit = "application"
	Environment Culprit = "environment" // outside the node: fabric, file system, facility
	Evenkeel    Culprit = "evenkeel"    // our own daemon
)

// Clear is a kind of evidence that can end a finding. Absence is none of them.
type Clear string

// The kinds of clearing evidence.
const (
	// ClearReset is a reset of the device that the driver confirmed.
	ClearReset Clear = "reset"
	// ClearReboot is a new boot id on the same instance.
	ClearReboot Clear = "reboot"
	// ClearReplaced is a new instance id under the same node name.
	ClearReplaced Clear = "replaced"
	// ClearReading is a healthy reading, held for [Row.ClearHold].
	ClearReading Clear = "reading"
	// ClearKernel is a kernel log record that says the trouble is over.
	ClearKernel Clear = "kernel"
	// ClearReport is a report of the node's agent that arrived again.
	ClearReport Clear = "report"
)

// Confirm is the rule that turns a provisional finding into a confirmed one:
// whichever of its parts is met first. The zero rule confirms at once.
type Confirm struct {
	// Count observations within Window.
	Count int
	// Agree lists kinds; one of them bad on the same subject within Window is
	// the second source.
	Agree []Kind
	// Window bounds Count and Agree.
	Window time.Duration
	// Hold is how long the observation has to be renewed without an OK between.
	Hold time.Duration
}

// Immediate reports whether a single observation confirms.
func (c Confirm) Immediate() bool { return c.Count <= 1 && len(c.Agree) == 0 && c.Hold == 0 }

// String is the rule in words.
func (c Confirm) String() string {
	if c.Immediate() {
		return "at once"
	}
	s := ""
	or := func(format string, args ...any) {
		if s != "" {
			s += ", or "
		}
		s += fmt.Sprintf(format, args...)
	}
	for _, k := range c.Agree {
		or("%s on the same subject within %s", k, c.Window)
	}
	if c.Count > 1 {
		or("%d observations within %s", c.Count, c.Window)
	}
	if c.Hold > 0 {
		or("seen without interruption for %s", c.Hold)
	}
	return s
}

// Row is everything that Evenkeel knows about one kind of fault.
type Row struct {
	Kind     Kind
	Family   Family
	Title    string // what is wrong, in a few words
	Detail   string // what it means for the work on the node, one or two sentences
	Severity Severity
	Action   Action // what the evidence asks for; policy decides
	Confirm  Confirm
	// Subsumes lists kinds that are consequences of this one on the same subject.
	Subsumes []Kind
	// Clears lists the evidence that ends a finding of this kind.
	Clears []Clear
	// ClearHold is how long a healthy reading has to last for ClearReading.
	ClearHold time.Duration
	Culprit   Culprit
	// RaisedBy names the sources that raise the kind today.
	RaisedBy []string
	// Source says where the facts of this row come from.
	Source string
}

// Runbook is the anchor of the row in docs/faults.md.
func (r *Row) Runbook() string { return "faults.md#" + anchor(string(r.Kind)) }

// Cleared reports whether evidence of kind c ends a finding of this row.
func (r *Row) Cleared(c Clear) bool { return slices.Contains(r.Clears, c) }

// Timing holds every duration that the catalogue's rows use, so that one block
// of the agent's configuration sets them.
type Timing struct {
	// ConfirmWindow bounds counting and the wait for a second source.
	ConfirmWindow time.Duration `yaml:"confirm_window"`
	// ConfirmHold is how long a reading has to stay bad.
	ConfirmHold time.Duration `yaml:"confirm_hold"`
	// ClearHold is how long a reading has to stay healthy.
	ClearHold time.Duration `yaml:"clear_hold"`
}

// DefaultTiming is what the shipped configuration uses.
//
// ConfirmWindow: the driver's own follow-ups to a fault come within a second
// and the slowest reading every 30 s, so a minute holds two of them. ConfirmHold:
// a throttled GPU that recovers within half a minute was a load step. ClearHold:
// link errors that return do so within a minute in the bursts on record.
func DefaultTiming() Timing {
	return Timing{ConfirmWindow: time.Minute, ConfirmHold: 30 * time.Second, ClearHold: time.Minute}
}

// Validate names every duration that cannot work.
func (t Timing) Validate() error {
	var errs []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"confirm_window", t.ConfirmWindow}, {"confirm_hold", t.ConfirmHold}, {"clear_hold", t.ClearHold}} {
		if d.value <= 0 {
			errs = append(errs, fmt.Errorf("%s: must be positive, got %s", d.name, d.value))
		}
	}
	return errors.Join(errs...)
}

// OnlyRemediator reports whether findings of this row are gathered by the
// remediator itself. In an agent's report they are a forgery.
func (r *Row) OnlyRemediator() bool {
	return len(r.RaisedBy) == 1 && r.RaisedBy[0] == remediatorSelf
}

// Catalogue is the set of rows in force.
type Catalogue struct {
	rows map[Kind]*Row
}

// CatalogueVersion changes with every change of a row's meaning; reports and
// incidents carry it.
const CatalogueVersion = "2026.11.1"

// NewCatalogue gives the shipped rows with the given durations.
func NewCatalogue(t Timing) *Catalogue {
	c := &Catalogue{rows: make(map[Kind]*Row)}
	for _, r := range shipped(t) {
		c.rows[r.Kind] = &r
	}
	return c
}

// Row gives the row of a kind; nil for a kind that this version does not know.
func (c *Catalogue) Row(k Kind) *Row { return c.rows[k] }

// Rows gives every row, ordered by kind.
func (c *Catalogue) Rows() []*Row {
	return slices.SortedFunc(maps.Values(c.rows), func(a, b *Row) int { return cmp.Compare(a.Kind, b.Kind) })
}

// Explains reports whether a finding of kind cause explains one of kind effect
// on the same subject.
func (c *Catalogue) Explains(cause, effect Kind) bool {
	r := c.rows[cause]
	return r != nil && slices.Contains(r.Subsumes, effect)
}
