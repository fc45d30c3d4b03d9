package hyperpod

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Instance is one machine as its owner knows it.
type Instance struct {
	ID        string // "i-" and 17 hexadecimal digits; new after a replacement
	LogicalID string // empty unless the cluster provisions continuously
	Node      string // "ip-10-1-0-1"; survives a replacement
	IP        string
	Group     string
	Launched  time.Time
}

// The statuses that this model passes through.
const (
	statusRunning      = "Running"
	statusPending      = "Pending"
	statusShuttingDown = "ShuttingDown"
	statusFailure      = "Failure"
)

// moment is a status that a slot has from a time on.
type moment struct {
	at       time.Time
	instance Instance
	status   string
	message  string
}

// slot is a place in the cluster that one instance after the other fills.
type slot struct {
	timeline []moment // ordered by time; the first one has always been
	dead     bool     // the hardware is gone, though the service does not know
}

func newSlot(n Node, o Options, now time.Time) *slot {
	i := Instance{
		ID:       cmp.Or(n.InstanceID, newInstanceID()),
		Node:     "ip-" + strings.ReplaceAll(n.IP, ".", "-"),
		IP:       n.IP,
		Group:    cmp.Or(n.Group, "worker"),
		Launched: now,
	}
	if o.Continuous {
		i.LogicalID = "node-" + randomHex(16)
	}
	return &slot{timeline: []moment{{instance: i, status: statusRunning}}}
}

func newInstanceID() string { return "i-" + randomHex(17) }

// at gives what the slot was at a time.
func (s *slot) at(t time.Time) moment {
	last := s.timeline[0]
	for _, m := range s.timeline[1:] {
		if m.at.After(t) {
			break
		}
		last = m
	}
	return last
}

// Instances gives the machines that there are, without any lag, in the order
// of Options.Nodes.
func (s *Server) Instances() []Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Instance
	for _, slot := range s.slots {
		all = append(all, slot.at(time.Now()).instance)
	}
	return all
}

// KillInstance takes the hardware away. The service does not notice: its view
// stays Running until the instance is replaced, and a reboot does not help.
func (s *Server) KillInstance(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, slot := range s.slots {
		if slot.at(time.Now()).instance.ID == id {
			slot.dead = true
			return nil
		}
	}
	return fmt.Errorf("simulated HyperPod: no instance %s", id)
}

// SetNodeRecovery changes the cluster's recovery mode.
func (s *Server) SetNodeRecovery(mode string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.options.NodeRecovery = mode
}

// Error codes that the service gives for single nodes.
const (
	codeNotFound      = "InstanceIdNotFound"
	codeInvalidStatus = "InvalidInstanceStatus"
	codeInUse         = "InstanceIdInUse"
)

// nodeError is why one node of a batch was refused.
type nodeError struct{ code, message string }

// find gives the slot that holds an instance id or a logical id now.
func (s *Server) find(now time.Time, instanceID, logicalID string) (*slot, moment, bool) {
	for _, slot := range s.slots {
		m := slot.at(now)
		if instanceID != "" && m.instance.ID == instanceID || logicalID != "" && m.instance.LogicalID == logicalID {
			return slot, m, true
		}
	}
	return nil, moment{}, false
}

// view is what reads are told: every slot as it was ViewLag ago.
func (s *Server) view(now time.Time) []moment {
	var all []moment
	for _, slot := range s.slots {
		all = append(all, slot.at(now.Add(-s.options.ViewLag)))
	}
	return all
}

// replace begins to replace the instance of a slot: it shuts down for a quarter
// of the time, then the new one is Pending.
func (s *Server) replace(now time.Time, instanceID, logicalID string) (string, *nodeError) {
	slot, m, ok := s.find(now, instanceID, logicalID)
	switch {
	case !ok:
		return "", &nodeError{codeNotFound, "The instance ID does not exist in the specified cluster."}
	case m.status != statusRunning && m.status != statusFailure:
		return "", &nodeError{codeInUse, "The instance ID is already in use by another operation."}
	}
	old, replacement := m.instance, m.instance
	replacement.ID = newInstanceID()
	replacement.Launched = now.Add(s.options.ReplaceTakes / 4)
	slot.timeline = append(slot.timeline,
		moment{at: now, instance: old, status: statusShuttingDown},
		moment{at: replacement.Launched, instance: replacement, status: statusPending},
		moment{at: now.Add(s.options.ReplaceTakes), instance: replacement, status: statusRunning},
	)
	s.after(s.options.ReplaceTakes, func() {
		s.mu.Lock()
		slot.dead = false
		s.mu.Unlock()
		if s.options.OnReplaced != nil {
			s.options.OnReplaced(old, replacement)
		}
	})
	return old.ID, nil
}

// reboot begins to restart the instance of a slot. One whose hardware is gone
// does not come back.
func (s *Server) reboot(now time.Time, instanceID, logicalID string) (string, *nodeError) {
	slot, m, ok := s.find(now, instanceID, logicalID)
	switch {
	case !ok:
		return "", &nodeError{codeNotFound, "The instance ID does not exist in the specified cluster."}
	case m.status == statusFailure:
		return "", &nodeError{codeInvalidStatus, "The instance is in a status that does not allow a reboot."}
	case m.status != statusRunning:
		return "", &nodeError{codeInUse, "The instance ID is already in use by another operation."}
	}
	end := moment{at: now.Add(s.options.RebootTakes), instance: m.instance, status: statusRunning}
	if slot.dead {
		end.status, end.message = statusFailure, "The instance did not come back after a reboot."
	}
	slot.timeline = append(slot.timeline, moment{at: now, instance: m.instance, status: statusPending}, end)
	if !slot.dead && s.options.OnRebooted != nil {
		s.after(s.options.RebootTakes, func() { s.options.OnRebooted(m.instance) })
	}
	return m.instance.ID, nil
}

// after runs f later, unless the server has been closed by then. The caller
// holds the lock.
func (s *Server) after(d time.Duration, f func()) {
	s.timers = append(s.timers, time.AfterFunc(d, func() {
		select {
		case <-s.closed:
		default:
			f()
		}
	}))
}
