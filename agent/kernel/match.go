package kernel

import (
	"bytes"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/agent/health"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// SourceName is the source's name in observations, coverage and metrics.
const SourceName = "kernel"

// maxName bounds every name that is taken out of a message (a file system, a
// block device), in bytes.
const maxName = 128

// rule is one family of messages.
type rule struct {
	// candidate is the cheap test that nearly every message fails. It does not allocate.
	candidate func(message []byte) bool
	// match adds what the message says; nothing, if on a closer look it says nothing.
	match func(m *Matcher, e *entry)
}

// rules is the table of what is known about the kernel log: a new family of
// messages is a row here and a function beside those below.
var rules = []rule{
	{startsWith("NVRM: "), matchNVRM},
	{startsWith("nvidia-nvswitch"), countSXid},
	{startsWith("efa "), matchEFA},
	{startsWith("Lustre"), matchLustre},
	{contains("NEURON_HW_ERR="), matchNeuron},
	{endsWith("only"), matchReadOnly},
}

func startsWith(s string) func([]byte) bool {
	return func(b []byte) bool { return len(b) >= len(s) && string(b[:len(s)]) == s }
}

func endsWith(s string) func([]byte) bool {
	return func(b []byte) bool { return len(b) >= len(s) && string(b[len(b)-len(s):]) == s }
}

func contains(s string) func([]byte) bool {
	needle := []byte(s)
	return func(b []byte) bool { return bytes.Contains(b, needle) }
}

// entry is one candidate message on its way through a rule.
type entry struct {
	record Record
	at     time.Time
	text   string
	out    []health.Observation
}

// Matcher recognises faults in the records of one kernel log. It keeps what one
// record says that another needs; it is not safe for concurrent use.
type Matcher struct {
	gpus    map[string]string // PCI address -> UUID
	pending map[bool]lostGPU  // by FromKernel
	xids    map[xidCode]uint64
}

// NewMatcher makes a matcher that has seen nothing.
func NewMatcher() *Matcher {
	return &Matcher{gpus: make(map[string]string), pending: make(map[bool]lostGPU), xids: make(map[xidCode]uint64)}
}

// Match gives what the record, which was logged at the given time, says about
// faults: nothing, for nearly all.
func (m *Matcher) Match(r *Record, at time.Time) []health.Observation {
	for i := range rules {
		if rules[i].candidate(r.Message) {
			e := entry{record: *r, at: at, text: strings.ToValidUTF8(string(r.Message), "\ufffd")}
			rules[i].match(m, &e)
			return e.out
		}
	}
	return nil
}

// say adds an observation about a subject.
func (e *entry) say(kind fault.Kind, state fault.State, s fault.Subject) *health.Observation {
	authority := fault.ByNobody
	if e.record.FromKernel() {
		authority = fault.ByKernel
	}
	e.out = append(e.out, health.Observation{
		Time: e.at, Source: SourceName, Kind: kind, Subject: s, State: state,
		Evidence: fault.Evidence{Authority: authority, Sequence: e.record.Sequence, Text: e.text},
	})
	return &e.out[len(e.out)-1]
}
