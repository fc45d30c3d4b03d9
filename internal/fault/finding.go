package fault

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
	"unicode/utf8"
)

// State is what a source can say about a subject. The zero value is not a
// state: whatever does not parse becomes [Unknown], which is never healthy and
// never a reason to destroy.
type State string

// The three states.
const (
	OK      State = "ok"
	Bad     State = "bad"
	Unknown State = "unknown"
)

// UnmarshalText maps every unrecognised state to Unknown.
func (s *State) UnmarshalText(b []byte) error {
	switch v := State(b); v {
	case OK, Bad, Unknown:
		*s = v
	default:
		*s = Unknown
	}
	return nil
}

// Severity says how much a finding matters to the work on the node.
type Severity string

// Severities, from least to most: fatal means that work on the subject cannot
// go on.
const (
	Info    Severity = "info"
	Warning Severity = "warning"
	Error   Severity = "error"
	Fatal   Severity = "fatal"
)

// Rank orders severities; an unrecognised one ranks below Info.
func (s Severity) Rank() int {
	switch s {
	case Info:
		return 1
	case Warning:
		return 2
	case Error:
		return 3
	case Fatal:
		return 4
	}
	return 0
}

// Action is the remedy that evidence asks for. All but Investigate lie on one
// ladder: none < restart_app < reset_device < reboot < replace.
type Action string

// The ladder, and Investigate beside it: a person has to look.
const (
	None        Action = "none"
	RestartApp  Action = "restart_app"
	ResetDevice Action = "reset_device"
	Reboot      Action = "reboot"
	Replace     Action = "replace"
	Investigate Action = "investigate"
)

// Rung is the action's place on the ladder, 0 for None, and -1 for Investigate
// and for whatever this version does not know.
func (a Action) Rung() int {
	switch a {
	case None:
		return 0
	case RestartApp:
		return 1
	case ResetDevice:
		return 2
	case Reboot:
		return 3
	case Replace:
		return 4
	}
	return -1
}

// Destructive reports whether the action ends the work of a whole node.
func (a Action) Destructive() bool { return a == Reboot || a == Replace }

// UnmarshalText maps every unrecognised action to Investigate: an action that
// this version does not know must not be taken for a known one.
func (a *Action) UnmarshalText(b []byte) error {
	*a = Action(b)
	if a.Rung() < 0 {
		*a = Investigate
	}
	return nil
}

// Authority says who vouches for a piece of evidence. The zero value vouches
// for nothing.
type Authority string

const (
	// ByNobody is evidence that any user of the node could have written, such as
	// a kernel log record whose facility is not the kernel's.
	ByNobody Authority = ""
	// ByKernel is a kernel log record of the kernel's own facility.
	ByKernel Authority = "kernel"
	// ByDevice is a reading taken from a device or its driver.
	ByDevice Authority = "device"
	// ByRemediator is gathered by the remediator itself (silence).
	ByRemediator Authority = "remediator"
)

// maxEvidenceText bounds Evidence.Text, in bytes. Kernel records are at most
// about 1 KiB; what matters stands in front.
const maxEvidenceText = 512

// Evidence is one observation that a finding rests on, or was cleared by.
type Evidence struct {
	Source    string    `json:"source"`
	Authority Authority `json:"authority,omitempty"`
	Time      time.Time `json:"time"`
	BootID    string    `json:"boot_id,omitempty"`
	// Sequence is the source's own number for the record (the kernel log's), 0 for none.
	Sequence uint64 `json:"sequence,omitempty"`
	Text     string `json:"text,omitempty"`
	// Clear names what the evidence shows when it clears a finding; empty otherwise.
	Clear Clear `json:"clear,omitempty"`
}

// Clip shortens text to what evidence may carry, at a character boundary.
func Clip(text string) string {
	if len(text) <= maxEvidenceText {
		return text
	}
	cut := maxEvidenceText - len("…")
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

// Finding is one thing wrong, well, or not known, about one subject.
type Finding struct {
	ID       string   `json:"id"`
	Kind     Kind     `json:"kind"`
	Subject  Subject  `json:"subject"`
	State    State    `json:"state"`
	Severity Severity `json:"severity"`
	// Action is the remedy that the evidence asks for; policy decides what is done.
	Action Action `json:"action"`
	// Provisional findings have not met their kind's confirmation rule yet. A
	// finding keeps its ID when it is confirmed.
	Provisional bool `json:"provisional,omitempty"`
	// BootID is the boot in which the fault happened.
	BootID string `json:"boot_id,omitempty"`
	// History marks a fault of an earlier boot: shown, never acted upon.
	History bool `json:"history,omitempty"`
	// Simulated findings come from injected sources. Every actuator refuses them
	// unless its endpoint is on loopback.
	Simulated bool `json:"simulated,omitempty"`
	// SubsumedBy is the ID of the finding that explains this one; it is then not
	// acted upon by itself.
	SubsumedBy string `json:"subsumed_by,omitempty"`
	// Evidence holds the first and the latest observations, oldest first.
	Evidence []Evidence `json:"evidence,omitempty"`
	First    time.Time  `json:"first"`
	Last     time.Time  `json:"last"`
	Count    int        `json:"count"`
	// ClearedBy is set when State is OK: the evidence that ended the finding.
	ClearedBy *Evidence `json:"cleared_by,omitempty"`
}

// NewID is the identity of a finding: the same kind, on the same subject, on
// the same machine, in the same boot, is the same finding, also for an agent
// that lost its state.
func NewID(kind Kind, s Subject, bootID string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s\x00%s", kind, s.Node, s.InstanceID, bootID, s.Key()))
	return string(kind) + "-" + hex.EncodeToString(h[:6])
}

// Authorises reports whether the finding by itself may be a reason to act, and
// if not, why. Policy and guards have their say after it.
func (f *Finding) Authorises() (bool, string) {
	switch {
	case f.State != Bad:
		return false, "state is " + string(f.State)
	case f.History:
		return false, "happened in an earlier boot"
	case f.Provisional:
		return false, "not confirmed yet"
	case f.SubsumedBy != "":
		return false, "explained by " + f.SubsumedBy
	}
	for _, e := range f.Evidence {
		if e.Authority != ByNobody {
			return true, ""
		}
	}
	return false, "no evidence that a user of the node could not have written"
}
