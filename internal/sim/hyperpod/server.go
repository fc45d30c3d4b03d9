// Package hyperpod is a stand-in for the part of the SageMaker API that deals
// with the nodes of a HyperPod cluster, for the demo and for tests.
//
// It speaks SageMaker's JSON protocol, checks Signature Version 4 itself, and
// models what makes the real service hard to drive: a replacement takes its
// time and ends with a new instance id under the old node name, what reads
// answer lags behind, dead hardware still counts as Running, there is no client
// token, and an answer can be slow, throttled, wrong or lost ([Server.Inject]).
//
// It shares no type and no code with the client that it tests, and it refuses
// to listen on anything but loopback. Time is the time package's, so a
// [testing/synctest] bubble can run hours of it at once.
package hyperpod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Node recovery modes of a cluster.
const (
	RecoveryAutomatic = "Automatic"
	RecoveryNone      = "None"
)

// Node is one node that the cluster starts with.
type Node struct {
	// IP is the node's IPv4 address. It gives the node its name,
	// "ip-10-1-0-1" for 10.1.0.1; both survive a replacement.
	IP string
	// Group is the instance group, "worker" if empty.
	Group string
	// InstanceID is made up if empty.
	InstanceID string
}

// Options describes the cluster and the account that may use it.
type Options struct {
	Cluster   string // cluster name
	Region    string
	AccessKey string // access key id that requests have to be signed with
	SecretKey string
	// NodeRecovery is RecoveryNone if empty.
	NodeRecovery string
	// Continuous makes the cluster one of continuous provisioning, whose nodes
	// have logical ids.
	Continuous bool
	Nodes      []Node
	// SummariesWithoutDNS leaves PrivateDnsHostname out of ListClusterNodes, as
	// API versions before it was added did.
	SummariesWithoutDNS bool

	// ReplaceTakes is the time from an accepted replacement to the new instance
	// being Running; RebootTakes is the same for a reboot.
	ReplaceTakes time.Duration
	RebootTakes  time.Duration
	// ViewLag is how far reads are behind what is.
	ViewLag time.Duration

	// OnReplaced and OnRebooted are called, each on a goroutine of its own, when
	// the machine is up again.
	OnReplaced func(old, replacement Instance)
	OnRebooted func(Instance)

	Logger *slog.Logger // nil discards
}

// Server is the service. It implements [http.Handler]; [Server.Listen] serves
// it on a socket.
type Server struct {
	options Options
	arn     string
	signer  verifier

	mu     sync.Mutex
	slots  []*slot
	faults map[string][]Fault
	calls  []Call
	timers []*time.Timer

	closed    chan struct{}
	closeOnce sync.Once
	http      *http.Server
}

// account is the made-up account of every simulated cluster.
const account = "111122223333"

// New builds the cluster; nothing listens yet.
func New(o Options) (*Server, error) {
	if o.NodeRecovery == "" {
		o.NodeRecovery = RecoveryNone
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, required := range []struct{ name, value string }{
		{"Cluster", o.Cluster}, {"Region", o.Region}, {"AccessKey", o.AccessKey}, {"SecretKey", o.SecretKey},
	} {
		if required.value == "" {
			return nil, fmt.Errorf("simulated HyperPod: %s must be set", required.name)
		}
	}
	s := &Server{
		options: o,
		arn:     fmt.Sprintf("arn:aws:sagemaker:%s:%s:cluster/%s", o.Region, account, randomHex(12)),
		signer:  verifier{accessKey: o.AccessKey, secretKey: o.SecretKey, region: o.Region, service: "sagemaker"},
		faults:  make(map[string][]Fault),
		closed:  make(chan struct{}),
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug)}
	for i, n := range o.Nodes {
		address, err := netip.ParseAddr(n.IP)
		if err != nil || !address.Is4() {
			return nil, fmt.Errorf("simulated HyperPod: node %d: %q is not an IPv4 address", i, n.IP)
		}
		s.slots = append(s.slots, newSlot(n, o, time.Now()))
	}
	return s, nil
}

// Listen serves on a loopback address such as "127.0.0.1:0" until Close, and
// gives the endpoint's URL.
func (s *Server) Listen(address string) (string, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("simulated HyperPod: listen address %q: %w", address, err)
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return "", fmt.Errorf("simulated HyperPod: listen address %q is not loopback", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("simulated HyperPod: %w", err)
	}
	go func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.options.Logger.Error("Simulated HyperPod stopped serving", "err", err)
		}
	}()
	return "http://" + listener.Addr().String(), nil
}

// Close ends every connection, hanging requests and the work under way.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		close(s.closed)
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, t := range s.timers {
			t.Stop()
		}
	})
	return s.http.Close()
}

// Call is one request as the service saw it.
type Call struct {
	Time      time.Time
	Operation string
	// NodeIDs are the instance ids and logical ids that the request named.
	NodeIDs []string
	// Accepted are the instance ids of the machines on which work was begun,
	// whatever the caller was told.
	Accepted []string
	// Outcome is "ok", or the error type, or the kind of fault injected.
	Outcome string
}

// Calls gives every request so far, oldest first.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *Server) record(c Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, c)
	s.options.Logger.Info("HyperPod call", "operation", c.Operation, "nodes", strings.Join(c.NodeIDs, ","), "outcome", c.Outcome)
}

// maxRequest bounds a request's body; the largest honest one names 50 ids.
const maxRequest = 64 << 10

// ServeHTTP answers one request of the JSON protocol.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := Call{Time: time.Now(), Operation: strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "SageMaker.")}
	answer, err := s.handle(w, r, &call)
	if call.Outcome == "" {
		call.Outcome = "ok"
		if problem, ok := errors.AsType[*apiError](err); ok {
			call.Outcome = problem.Type
		}
	}
	s.record(call)
	switch {
	case errors.Is(err, errNoAnswer):
		panic(http.ErrAbortHandler) // net/http then closes the connection without an answer
	case errors.Is(err, errGarbage):
		s.reply(w, http.StatusOK, []byte(`{"Successful":["i-`))
	case err != nil:
		problem, ok := errors.AsType[*apiError](err)
		if !ok {
			problem = &apiError{Status: http.StatusInternalServerError, Type: "InternalFailure", Message: err.Error()}
		}
		s.reply(w, problem.Status, encode(problem))
	default:
		s.reply(w, http.StatusOK, encode(answer))
	}
}

func (s *Server) reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Amzn-Requestid", randomHex(32))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the caller is gone if this fails
}

// handle authenticates, decodes and executes; what was called for and what was
// done is noted in call.
func (s *Server) handle(w http.ResponseWriter, r *http.Request, call *Call) (any, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return nil, refuse("SerializationException", "cannot read the request: %v", err)
	}
	if r.Method != http.MethodPost || r.URL.Path != "/" || r.URL.RawQuery != "" {
		return nil, refuse("UnknownOperationException", "only POST / is served")
	}
	if err := s.signer.verify(r, body, time.Now()); err != nil {
		return nil, err
	}
	operation, ok := operations[call.Operation]
	if !ok || !strings.HasPrefix(r.Header.Get("X-Amz-Target"), "SageMaker.") {
		return nil, refuse("UnknownOperationException", "unknown operation %.100q", r.Header.Get("X-Amz-Target"))
	}
	request, err := decodeRequest(body)
	if err != nil {
		return nil, err
	}
	call.NodeIDs = request.nodeIDs()
	if err := s.isOurs(request); err != nil {
		return nil, err
	}
	fault := s.takeFault(call.Operation)
	if err := s.pause(r.Context(), fault.Delay); err != nil {
		call.Outcome = "gave up waiting"
		return nil, err
	}
	if fault.Kind != "" {
		call.Outcome = string(fault.Kind)
	}
	switch fault.Kind {
	case Throttle:
		return nil, refuse("ThrottlingException", "Rate exceeded")
	case InternalFailure:
		return nil, &apiError{Status: http.StatusInternalServerError, Type: "InternalFailure", Message: "The request processing has failed because of an unknown error."}
	case Unavailable:
		return nil, &apiError{Status: http.StatusServiceUnavailable, Type: "ServiceUnavailable", Message: "The request has failed due to a temporary failure of the server."}
	case NotFoundLie:
		return nil, s.noSuchNode(strings.Join(call.NodeIDs, ","))
	case Hang:
		<-s.gone(r.Context()).Done()
		return nil, errNoAnswer
	case NodeError:
		return failEach(request, fault.Code), nil
	}
	answer, accepted, err := operation(s, request)
	call.Accepted = accepted
	switch {
	case err != nil:
		return nil, err
	case fault.Kind == AnswerLost:
		return nil, errNoAnswer
	case fault.Kind == AnswerHangs:
		<-s.gone(r.Context()).Done()
		return nil, errNoAnswer
	case fault.Kind == Garbage:
		return nil, errGarbage
	case fault.Kind == EmptyAnswer:
		return struct{}{}, nil
	}
	return answer, nil
}

// gone ends when the caller or the server has gone.
func (s *Server) gone(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-s.closed:
		}
	}()
	return ctx
}

func (s *Server) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
	case <-s.closed:
	}
	return errNoAnswer
}

func encode(v any) []byte {
	content, err := json.Marshal(v)
	if err != nil { // own types only: they always encode
		panic(err)
	}
	return content
}

// randomHex gives n random hexadecimal digits.
func randomHex(n int) string {
	raw := make([]byte, (n+1)/2)
	_, _ = rand.Read(raw) // documented never to fail
	return hex.EncodeToString(raw)[:n]
}
