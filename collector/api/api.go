// Package api is the collector's HTTP interface: it takes expert load and tells
// what is known per replica. It decides who may call what and how large a
// request may be, and translates refusals into answers that say which field is
// wrong. What a load means is not its business.
package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/evenkeel/evenkeel/collector/expert"
	"github.com/evenkeel/evenkeel/internal/httpserve"
)

// Intake takes a valid load.
type Intake interface {
	// Accept keeps the load, or says why not: a *StaleGeneration, ErrPlacement,
	// ErrFull, or an error about its content.
	Accept(l *expert.Load) error
	// Refused counts a post that never became a load.
	Refused(r Refusal)
}

// Refusal is why a post was not taken: a label value of a metric.
type Refusal string

// The refusals.
const (
	RefusedInvalid    Refusal = "invalid"
	RefusedTooLarge   Refusal = "too_large"
	RefusedGeneration Refusal = "generation"
	RefusedPlacement  Refusal = "placement"
	RefusedFull       Refusal = "full"
	RefusedBusy       Refusal = "busy"
)

// Refusals lists them all.
func Refusals() []Refusal {
	return []Refusal{RefusedInvalid, RefusedTooLarge, RefusedGeneration, RefusedPlacement, RefusedFull, RefusedBusy}
}

// StaleGeneration says that a newer placement is known.
type StaleGeneration struct{ Held, Got uint64 }

func (e *StaleGeneration) Error() string {
	return fmt.Sprintf("generation: %d is older than %d, which this replica posted before", e.Got, e.Held)
}

var (
	// ErrPlacement says that a placement changed without a new generation.
	ErrPlacement = errors.New("placement: differs from the one posted before under the same generation")
	// ErrFull says that no more replicas are taken.
	ErrFull = errors.New("replica: too many replicas are known already")
)

// Replicas tells what is known.
type Replicas interface {
	Replicas() ReplicaList
}

// decoders bounds how many posts are decoded at once: a post of the maximal
// size takes some 200 MiB while it is.
const decoders = 2

// decodeWait is how long a post waits for its turn.
const decodeWait = 10 * time.Second

// New gives the routes under /v1/.
func New(intake Intake, replicas Replicas, access httpserve.Access) http.Handler {
	mux := http.NewServeMux()
	post := &poster{intake: intake, slots: make(chan struct{}, decoders)}
	mux.Handle("POST /v1/expert-load", access.Require(httpserve.RolePush, post))
	mux.Handle("GET /v1/replicas", access.Require(httpserve.RoleRead, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		httpserve.JSON(w, http.StatusOK, replicas.Replicas())
	})))
	return mux
}

type poster struct {
	intake Intake
	slots  chan struct{}
}

// ServeHTTP answers 204; 400 for content; 409 with the generation held;
// 413 for size; 503 with Retry-After when there is no room.
func (p *poster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength > expert.MaxBodyBytes {
		p.refuse(w, fmt.Errorf("%w: more than %d bytes", expert.ErrTooLarge, expert.MaxBodyBytes))
		return
	}
	turn := time.NewTimer(decodeWait)
	defer turn.Stop()
	select {
	case p.slots <- struct{}{}:
	case <-turn.C:
		p.refuse(w, errBusy)
		return
	case <-r.Context().Done():
		p.refuse(w, errBusy)
		return
	}
	l, err := func() (*expert.Load, error) {
		defer func() { <-p.slots }()
		return expert.Decode(r.Body)
	}()
	if err == nil {
		err = p.intake.Accept(l)
	}
	if err != nil {
		p.refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

var errBusy = errors.New("too many posts at once")

func (p *poster) refuse(w http.ResponseWriter, err error) {
	status, refusal := http.StatusBadRequest, RefusedInvalid
	switch {
	case errors.Is(err, expert.ErrTooLarge):
		status, refusal = http.StatusRequestEntityTooLarge, RefusedTooLarge
	case errors.Is(err, ErrPlacement):
		status, refusal = http.StatusConflict, RefusedPlacement
	case errors.Is(err, ErrFull):
		status, refusal = http.StatusServiceUnavailable, RefusedFull
	case errors.Is(err, errBusy):
		status, refusal = http.StatusServiceUnavailable, RefusedBusy
	}
	if stale, ok := errors.AsType[*StaleGeneration](err); ok {
		p.intake.Refused(RefusedGeneration)
		httpserve.JSON(w, http.StatusConflict, staleBody{Error: err.Error(), HeldGeneration: stale.Held})
		return
	}
	p.intake.Refused(refusal)
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "10")
	}
	httpserve.Error(w, status, err.Error())
}

// staleBody lets a sender go on from the generation that is known.
type staleBody struct {
	Error          string `json:"error"`
	HeldGeneration uint64 `json:"held_generation"`
}
