package scheduler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// protocolSchema is the version of the command protocol that Ctl speaks.
const protocolSchema = 1

// request is what Ctl reads: one operation.
type request struct {
	Schema     int      `json:"schema"`
	Operation  string   `json:"operation"`
	Key        string   `json:"key"`
	Node       string   `json:"node"`
	Reason     string   `json:"reason"`
	Job        string   `json:"job"`
	Checkpoint string   `json:"checkpoint"`
	Exclude    []string `json:"exclude"`
}

// response is what Ctl writes. Views are passed on as the API gave them.
type response struct {
	Schema  int             `json:"schema"`
	Outcome string          `json:"outcome"` // done, refused or not_found
	Message string          `json:"message,omitempty"`
	Node    json.RawMessage `json:"node,omitempty"`
	Nodes   json.RawMessage `json:"nodes,omitempty"`
	Job     json.RawMessage `json:"job,omitempty"`
}

// ctlTimeout bounds one call to the scheduler's API.
const ctlTimeout = 30 * time.Second

// maxAnswer bounds what is read from either side, in bytes.
const maxAnswer = 1 << 20

// Ctl is the client program of the scheduler: it reads one request from stdin,
// carries it out by the API at endpoint, and writes the answer to stdout. It
// gives the exit status: 0 with an answer, 1 when it is not known what became
// of the request, with the reason on stderr.
func Ctl(stdin io.Reader, stdout, stderr io.Writer, endpoint string) int {
	answer, err := carryOut(stdin, endpoint)
	if err == nil {
		err = json.NewEncoder(stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintf(stderr, "schedulerctl: %v\n", err)
		return 1
	}
	return 0
}

func carryOut(stdin io.Reader, endpoint string) (response, error) {
	r := response{Schema: protocolSchema, Outcome: "done"}
	var q request
	if err := json.NewDecoder(io.LimitReader(stdin, maxAnswer)).Decode(&q); err != nil {
		return r, fmt.Errorf("read request: %w", err)
	}
	if q.Schema != protocolSchema {
		return r, fmt.Errorf("read request: schema %d, not %d", q.Schema, protocolSchema)
	}
	method, path, err := q.route()
	if err != nil {
		return r, err
	}
	status, body, err := call(method, endpoint+path, order{Key: q.Key, Reason: q.Reason, Checkpoint: q.Checkpoint, Exclude: q.Exclude})
	if err != nil {
		return r, err
	}
	switch status {
	case http.StatusOK:
		return r, r.fill(q.Operation, body)
	case http.StatusNotFound:
		r.Outcome = "not_found"
	case http.StatusConflict:
		r.Outcome = "refused"
	default:
		return r, fmt.Errorf("scheduler answered %d: %s", status, bytes.TrimSpace(body))
	}
	var problem struct {
		Error string `json:"error"`
	}
	// A 404 that is not the API's own says nothing about the node or the job.
	if err := json.Unmarshal(body, &problem); err != nil || problem.Error == "" {
		return r, fmt.Errorf("scheduler answered %d without a reason", status)
	}
	r.Message = problem.Error
	return r, nil
}

// route gives the API's request for an operation.
func (q *request) route() (method, path string, err error) {
	node, job := "/v1/nodes/"+url.PathEscape(q.Node), "/v1/jobs/"+url.PathEscape(q.Job)
	switch q.Operation {
	case "views":
		return http.MethodGet, "/v1/nodes", nil
	case "view":
		method, path = http.MethodGet, node
	case "isolate", "unisolate":
		method, path = http.MethodPost, node+"/"+q.Operation
	case "job":
		return http.MethodGet, job, requireName("job", q.Job)
	case "stop", "resume":
		return http.MethodPost, job + "/" + q.Operation, requireName("job", q.Job)
	default:
		return "", "", fmt.Errorf("unknown operation %q", q.Operation)
	}
	return method, path, requireName("node", q.Node)
}

func requireName(field, value string) error {
	if value == "" {
		return fmt.Errorf("read request: no %s", field)
	}
	return nil
}

// fill puts the API's body where the operation's answer has it.
func (r *response) fill(operation string, body []byte) error {
	if !json.Valid(body) {
		return fmt.Errorf("scheduler answered what is not JSON")
	}
	switch operation {
	case "view":
		r.Node = body
	case "job":
		r.Job = body
	case "views":
		var list struct {
			Nodes json.RawMessage `json:"nodes"`
		}
		if err := json.Unmarshal(body, &list); err != nil {
			return fmt.Errorf("read the scheduler's answer: %w", err)
		}
		r.Nodes = list.Nodes
	}
	return nil
}

func call(method, address string, o order) (status int, body []byte, err error) {
	var content io.Reader
	if method == http.MethodPost {
		encoded, err := json.Marshal(o)
		if err != nil {
			return 0, nil, err
		}
		content = bytes.NewReader(encoded)
	}
	q, err := http.NewRequest(method, address, content)
	if err != nil {
		return 0, nil, err
	}
	client := http.Client{Timeout: ctlTimeout}
	r, err := client.Do(q)
	if err != nil {
		return 0, nil, err
	}
	defer r.Body.Close()
	body, err = io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("read the scheduler's answer: %w", err)
	}
	return r.StatusCode, body, nil
}
