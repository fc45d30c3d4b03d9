package hyperpod

import (
	"errors"
	"time"
)

// FaultKind is a way in which one request can go wrong.
type FaultKind string

// The ways. The first group leaves the cluster as it was; the second does what
// was asked for and spoils the answer.
const (
	Throttle        FaultKind = "throttled"        // ThrottlingException, HTTP 400
	InternalFailure FaultKind = "internal failure" // HTTP 500
	Unavailable     FaultKind = "unavailable"      // HTTP 503
	NotFoundLie     FaultKind = "not-found lie"    // ResourceNotFound for what exists
	Hang            FaultKind = "hung"             // no answer until the caller gives up
	NodeError       FaultKind = "error per node"   // HTTP 200, each node in Failed with Fault.Code
	AnswerLost      FaultKind = "answer lost"      // done, then the connection is closed
	AnswerHangs     FaultKind = "answer hung"      // done, then no answer until the caller gives up
	Garbage         FaultKind = "undecodable"      // done, HTTP 200, half a JSON document
	EmptyAnswer     FaultKind = "empty answer"     // done, HTTP 200, {}
)

// Fault is what happens to one request. The zero Fault is a request that goes
// well.
type Fault struct {
	Kind FaultKind
	// Delay passes before anything else happens.
	Delay time.Duration
	// Code is the error code of NodeError, for example "InstanceIdInUse".
	Code string
}

// Inject queues faults for the next requests of an operation, such as
// "BatchReplaceClusterNodes": one fault for each request, in order.
func (s *Server) Inject(operation string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[operation] = append(s.faults[operation], faults...)
}

// Repeat gives the same fault n times, for Inject.
func Repeat(n int, f Fault) []Fault {
	faults := make([]Fault, n)
	for i := range faults {
		faults[i] = f
	}
	return faults
}

func (s *Server) takeFault(operation string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.faults[operation]
	if len(queue) == 0 {
		return Fault{}
	}
	s.faults[operation] = queue[1:]
	return queue[0]
}

var (
	errNoAnswer = errors.New("the connection ends without an answer")
	errGarbage  = errors.New("the answer is cut short")
)
