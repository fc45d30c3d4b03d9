package scheduler

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// maxBody bounds a request to the API, in bytes.
const maxBody = 64 << 10

// Handler serves the scheduler's API:
//
//	GET  /v1/nodes                    {"nodes":[NodeView]}
//	GET  /v1/nodes/{node}             NodeView
//	POST /v1/nodes/{node}/isolate     {"key","reason"}
//	POST /v1/nodes/{node}/unisolate   {"key"}
//	GET  /v1/jobs/{job}               JobView
//	POST /v1/jobs/{job}/stop          {"key","reason"}
//	POST /v1/jobs/{job}/resume        {"key","checkpoint","exclude"}
//
// 404 is for a node or job that the cluster does not have, 409 for an operation
// that was refused and had no effect, both with {"error"}. It asks nobody who
// they are: serve it on loopback only.
func (s *Scheduler) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{"nodes": s.Nodes()}, nil)
	})
	mux.HandleFunc("GET /v1/nodes/{node}", func(w http.ResponseWriter, r *http.Request) {
		view, err := s.node(r.PathValue("node"))
		answer(w, view, err)
	})
	mux.HandleFunc("POST /v1/nodes/{node}/isolate", operate(func(r *http.Request, o order) error {
		return s.isolate(r.PathValue("node"), o.Key, o.Reason)
	}))
	mux.HandleFunc("POST /v1/nodes/{node}/unisolate", operate(func(r *http.Request, o order) error {
		return s.unisolate(r.PathValue("node"), o.Key)
	}))
	mux.HandleFunc("GET /v1/jobs/{job}", func(w http.ResponseWriter, r *http.Request) {
		view := s.Job()
		if view.Job != r.PathValue("job") {
			answer(w, nil, fmt.Errorf("job %q: %w", r.PathValue("job"), errNotFound))
			return
		}
		answer(w, view, nil)
	})
	mux.HandleFunc("POST /v1/jobs/{job}/stop", operate(func(r *http.Request, o order) error {
		return s.stop(r.PathValue("job"), o.Key)
	}))
	mux.HandleFunc("POST /v1/jobs/{job}/resume", operate(func(r *http.Request, o order) error {
		return s.resume(r.PathValue("job"), o.Key, o.Checkpoint, o.Exclude)
	}))
	return mux
}

// order is the body of a request that changes something.
type order struct {
	Key        string   `json:"key"`
	Reason     string   `json:"reason,omitempty"`
	Checkpoint string   `json:"checkpoint,omitempty"`
	Exclude    []string `json:"exclude,omitempty"`
}

func operate(f func(*http.Request, order) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var o order
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&o); err != nil {
			reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		answer(w, struct{}{}, f(r, o))
	}
}

func (s *Scheduler) node(name string) (NodeView, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.find(name)
	if n == nil {
		return NodeView{}, fmt.Errorf("node %q: %w", name, errNotFound)
	}
	return n.view(), nil
}

func answer(w http.ResponseWriter, body any, err error) {
	status := http.StatusInternalServerError
	switch {
	case err == nil:
		reply(w, http.StatusOK, body)
		return
	case errors.Is(err, errNotFound):
		status = http.StatusNotFound
	case errors.Is(err, errRefused):
		status = http.StatusConflict
	}
	reply(w, status, map[string]string{"error": err.Error()})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller is gone if this fails
}
