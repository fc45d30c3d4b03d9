package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
)

// defaultInterval is for rule groups that name none, as in Prometheus.
const defaultInterval = time.Minute

// startRules evaluates the rule files until Close.
func (s *Store) startRules(files [][]byte) error {
	parsed := ruleFiles{parser: s.parser}
	var names []string
	for i, content := range files {
		groups, errs := rulefmt.Parse(content, false, model.UTF8Validation, s.parser, s.logger)
		if len(errs) > 0 {
			return fmt.Errorf("load rule file %d: %w", i, errors.Join(errs...))
		}
		names = append(names, strconv.Itoa(i))
		parsed.groups = append(parsed.groups, groups)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancelRules = cancel
	s.rules = rules.NewManager(&rules.ManagerOptions{
		Context:      ctx,
		ExternalURL:  &url.URL{},
		QueryFunc:    rules.EngineQueryFunc(s.engine, s.db),
		NotifyFunc:   s.notify,
		AppendableV2: s.db,
		Queryable:    s.db,
		Logger:       s.logger.With("component", "rule manager"),
		Registerer:   s.registry,
		GroupLoader:  parsed,
		Parser:       s.parser,
		// Alerts are sent at every evaluation: a process away costs nothing, and a
		// compressed clock leaves no time for Prometheus's minute.
		ResendDelay: 0,
	})
	s.running.Go(s.rules.Run)
	if err := s.rules.Update(defaultInterval, names, labels.EmptyLabels(), "", nil); err != nil {
		return fmt.Errorf("load rule files: %w", err)
	}
	return nil
}

// ruleFiles gives the rule manager the parsed files by their number.
type ruleFiles struct {
	parser parser.Parser
	groups []*rulefmt.RuleGroups
}

func (f ruleFiles) Load(number string, _ bool, _ model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	i, err := strconv.Atoi(number)
	if err != nil {
		return nil, []error{err}
	}
	return f.groups[i], nil
}

func (f ruleFiles) Parse(query string) (parser.Expr, error) { return f.parser.ParseExpr(query) }

// notify is what Prometheus's notifier does, without the network between.
func (s *Store) notify(ctx context.Context, expr string, alerts ...*rules.Alert) {
	sent := make([]model.Alert, 0, len(alerts))
	for _, a := range alerts {
		ends := a.ValidUntil
		if !a.ResolvedAt.IsZero() {
			ends = a.ResolvedAt
		}
		sent = append(sent, model.Alert{
			Labels:       labelSet(a.Labels),
			Annotations:  labelSet(a.Annotations),
			StartsAt:     a.FiredAt,
			EndsAt:       ends,
			GeneratorURL: "/api/v1/query?query=" + url.QueryEscape(expr),
		})
	}
	if err := s.alerts.put(ctx, sent); err != nil {
		s.logger.Error("Alertmanager did not take alerts", "err", err)
	}
}

func labelSet(l labels.Labels) model.LabelSet {
	set := make(model.LabelSet, l.Len())
	l.Range(func(l labels.Label) { set[model.LabelName(l.Name)] = model.LabelValue(l.Value) })
	return set
}
