package correlate

import (
	"fmt"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// Health is what witnesses that know nothing of the job's speed say about a
// rank's device and node.
type Health struct {
	State   fault.State `json:"state"`
	Reasons []string    `json:"reasons"`
}

// Place is where a rank computes.
type Place struct {
	Job        string
	Rank       int
	Node       string
	DeviceUUID string
}

// Witness is one statement about a node: the newest /v1/nodes of the
// remediator.
type Witness struct {
	// Nodes is nil where there is no statement.
	Nodes *fault.NodeList
	// At is when the statement was received, on this machine's clock.
	At time.Time
	// StaleAfter is the age from which a statement, or a report inside it, says
	// nothing about now.
	StaleAfter time.Duration
}

// Status gives the node's status, or why nothing current is known of it.
func (w Witness) Status(node string, now time.Time) (*fault.NodeStatus, string) {
	if w.Nodes == nil {
		return nil, "no node health was received"
	}
	age := now.Sub(w.At)
	if age > w.StaleAfter {
		return nil, fmt.Sprintf("node health is %s old", age.Round(time.Second))
	}
	for i := range w.Nodes.Nodes {
		s := &w.Nodes.Nodes[i]
		if s.Node != node {
			continue
		}
		if s.ReportAgeSeconds < 0 {
			return nil, fmt.Sprintf("%s never reported", node)
		}
		reported := age + time.Duration(s.ReportAgeSeconds*float64(time.Second))
		if reported > w.StaleAfter {
			return nil, fmt.Sprintf("%s last reported %s ago", node, reported.Round(time.Second))
		}
		return s, ""
	}
	return nil, fmt.Sprintf("%s is not among the nodes of %s", node, w.Nodes.Cluster)
}

// NodeHealth reads a node's findings for one of its devices. pci is the
// device's address where a source knows it, as [fault.NormalizePCI] gives it.
// Application faults are no evidence of sickness, and a finding about another
// device is none about this one.
func NodeHealth(catalogue *fault.Catalogue, s *fault.NodeStatus, place Place, pci string) Health {
	index := deviceIndex(s, place)
	var bad, doubtful []string
	for i := range s.Findings {
		f := &s.Findings[i]
		if f.State == fault.OK || f.History || !sickens(catalogue, f) {
			continue
		}
		text := fmt.Sprintf("%s: %s", f.Kind, f.Subject)
		match, certain := concerns(f.Subject, place.DeviceUUID, pci, index)
		switch {
		case !match:
		case f.State == fault.Unknown:
			doubtful = append(doubtful, text+" is unknown")
		case f.Provisional:
			doubtful = append(doubtful, text+" is not confirmed yet")
		case !certain:
			doubtful = append(doubtful, text+" may be about this device")
		default:
			bad = append(bad, text)
		}
	}
	switch {
	case len(bad) > 0:
		return Health{State: fault.Bad, Reasons: bad}
	case len(doubtful) > 0:
		return Health{State: fault.Unknown, Reasons: doubtful}
	case s.State != fault.OK && s.State != fault.Bad:
		return Health{State: fault.Unknown, Reasons: []string{fmt.Sprintf("%s cannot vouch for itself: its state is unknown", s.Node)}}
	}
	return Health{State: fault.OK, Reasons: []string{fmt.Sprintf("%s reports nothing wrong with the device", s.Node)}}
}

// sickens reports whether a finding of its kind can make a device slow. A kind
// that this version does not know can.
func sickens(catalogue *fault.Catalogue, f *fault.Finding) bool {
	if f.Severity == fault.Info || f.Subject.Device == fault.DeviceAgent {
		return false
	}
	row := catalogue.Row(f.Kind)
	return row == nil || row.Culprit != fault.Application && row.Culprit != fault.Evenkeel
}

// concerns reports whether a finding is about the rank's device or about what
// all ranks of the node share, and whether that is certain: the kernel names a
// GPU by its PCI address only, which need not be known here.
func concerns(s fault.Subject, uuid, pci string, index *int) (match, certain bool) {
	if s.Device != fault.DeviceGPU && s.Device != fault.DeviceNeuron {
		return true, true
	}
	switch {
	case s.UUID != "" && uuid != "":
		return s.UUID == uuid, true
	case s.PCI != "" && pci != "":
		return s.PCI == pci, true
	case s.Index != nil && index != nil:
		return *s.Index == *index, true
	}
	return true, false
}

func deviceIndex(s *fault.NodeStatus, place Place) *int {
	for i := range s.Jobs {
		if p := &s.Jobs[i]; place.DeviceUUID != "" && p.DeviceUUID == place.DeviceUUID {
			return &p.DeviceIndex
		}
	}
	return nil
}

// Device is the newest numbers of one device, none older than the store's
// freshness; nil is a number that the store does not have.
type Device struct {
	PCI                string
	SMClock            *float64 // MHz
	MaxSMClock         *float64 // MHz
	TemperatureCelsius *float64
	// DoubleBitECC counts uncorrectable errors since the driver was loaded.
	DoubleBitECC *float64
}

// clockShare is the clock over its maximum.
func (d Device) clockShare() (float64, bool) {
	if d.SMClock == nil || d.MaxSMClock == nil || *d.MaxSMClock <= 0 {
		return 0, false
	}
	return *d.SMClock / *d.MaxSMClock, true
}

// DeviceHealth judges a device's numbers beside those of its peers. A device
// whose clock cannot be compared is unknown, unless another number is bad.
func DeviceHealth(c Config, device Device, peers []Device) Health {
	var bad []string
	if e := device.DoubleBitECC; e != nil && *e > 0 {
		bad = append(bad, fmt.Sprintf("%g uncorrectable ECC errors since the driver was loaded", *e))
	}
	if t := device.TemperatureCelsius; t != nil && *t >= c.TemperatureLimitCelsius {
		bad = append(bad, fmt.Sprintf("%g °C, limit %g °C", *t, c.TemperatureLimitCelsius))
	}
	var shares []float64
	for _, p := range peers {
		if share, ok := p.clockShare(); ok {
			shares = append(shares, share)
		}
	}
	own, measured := device.clockShare()
	comparable := measured && len(shares) >= 2
	typical := median(shares)
	if comparable && exceeds(typical*(1-c.ClockRatio), own) {
		bad = append(bad, fmt.Sprintf("SM clock %g MHz is %.0f %% of its maximum, %.0f %% is usual among %d peers", *device.SMClock, 100*own, 100*typical, len(shares)))
	}
	switch {
	case len(bad) > 0:
		return Health{State: fault.Bad, Reasons: bad}
	case !comparable || device.TemperatureCelsius == nil || device.DoubleBitECC == nil:
		return Health{State: fault.Unknown, Reasons: []string{"the store has no current numbers of the device to compare with its peers'"}}
	}
	return Health{State: fault.OK, Reasons: []string{fmt.Sprintf("SM clock %.0f %% of its maximum, %.0f %% usual; %g °C; no uncorrectable ECC errors", 100*own, 100*typical, *device.TemperatureCelsius)}}
}

// Combine joins witnesses: one that has evidence of sickness is enough, and all
// must vouch for a device to be well.
func Combine(witnesses ...Health) Health {
	joint := Health{State: fault.OK}
	for _, state := range []fault.State{fault.Bad, fault.Unknown, fault.OK} {
		for _, w := range witnesses {
			if w.State == state {
				joint.Reasons = append(joint.Reasons, w.Reasons...)
			}
		}
		if len(joint.Reasons) > 0 && state != fault.OK {
			joint.State = state
			return joint
		}
	}
	if len(witnesses) == 0 {
		return Health{State: fault.Unknown, Reasons: []string{"no witness of the device's health"}}
	}
	return joint
}
