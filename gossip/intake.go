package gossip

import (
	"context"
	"time"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
	"github.com/rhumb-lb/rhumb/gossip/wire"
	"github.com/rhumb-lb/rhumb/regions"
)

// reason says why a record changed nothing, as metrics and logs call it.
type reason string

const (
	reasonMalformed  reason = "malformed"   // can't be read, or breaks a bound
	reasonUnknownKey reason = "unknown-key" // no certificate yet; asked for
	reasonExpired    reason = "expired"     // the signer's certificate
	reasonForged     reason = "forged"      // the signature is not the key's
	reasonName       reason = "name"        // the signer speaks for another
	reasonRole       reason = "role"        // the signer's role does not say such things
	reasonGrant      reason = "grant"       // endpoints or slots that the certificate does not allow
	reasonReplayed   reason = "replayed"    // not newer than what is known
	reasonTooMany    reason = "too-many"    // no room for more of this certificate
)

// signers are the roles that may sign each kind. Kinds that are not here,
// unknown ones among them, are anybody's of the fleet.
var signers = map[wire.Kind]fleet.Role{
	wire.Kind_STATUS:      fleet.RoleRegion,
	wire.Kind_PODS:        fleet.RoleRegion,
	wire.Kind_DIGEST:      fleet.RoleRegion,
	wire.Kind_OBSERVATION: fleet.RoleDirector,
	wire.Kind_CONTROL:     fleet.RoleDirector,
	wire.Kind_SPILL:       fleet.RoleDirector,
	wire.Kind_OVERRIDE:    fleet.RoleOperator,
}

// leaving is the key of the RECORD with which a member says goodbye.
const leaving = "member/leaving"

// judgement is what is found of an envelope.
type judgement struct {
	status *regions.Status   // of a STATUS
	row    *regions.SpillRow // of a SPILL
	digest *wire.Digest      // of a DIGEST
	reason reason            // empty if the record is good
	err    error             // details of the reason
}

// judge decides whether a record is what its certificate lets it be. It is the
// whole of the trust in others' words: a pure function of the envelope, the
// certificate behind its key id, and the time.
func judge(env *wire.Envelope, body *wire.Body, cert *fleet.Cert, now time.Time) judgement {
	if err := cert.Valid(now); err != nil {
		return judgement{reason: reasonExpired, err: err}
	}
	if err := cert.Verify(fleet.EnvelopeDomain, env.GetBody(), env.GetSig(), now); err != nil {
		return judgement{reason: reasonForged, err: err}
	}
	if !cert.Owns(body.GetOrigin()) {
		return judgement{reason: reasonName}
	}
	if want, ok := signers[body.GetKind()]; ok && want != cert.Role {
		return judgement{reason: reasonRole}
	}
	switch body.GetKind() {
	case wire.Kind_STATUS:
		s, err := wire.DecodeStatus(body)
		switch {
		case err != nil:
			return judgement{reason: reasonMalformed, err: err}
		case string(s.Region) != cert.Name:
			return judgement{reason: reasonName}
		}
		if err := cert.Grant.AllowsStatus(s); err != nil {
			return judgement{reason: reasonGrant, err: err}
		}
		return judgement{status: s}
	case wire.Kind_SPILL:
		row, err := wire.DecodeSpillRow(body.GetPayload())
		if err != nil {
			return judgement{reason: reasonMalformed, err: err}
		}
		return judgement{row: row}
	case wire.Kind_PODS:
		region, _, err := wire.DecodePods(body.GetPayload())
		if err != nil {
			return judgement{reason: reasonMalformed, err: err}
		}
		if string(region) != cert.Name {
			return judgement{reason: reasonName}
		}
		return judgement{}
	case wire.Kind_DIGEST:
		d, err := wire.DecodeDigest(body.GetPayload())
		switch {
		case err != nil:
			return judgement{reason: reasonMalformed, err: err}
		case d.GetRegion() != cert.Name:
			return judgement{reason: reasonName}
		}
		return judgement{digest: d}
	default:
		return judgement{}
	}
}

// intake works through what memberlist's goroutines hand over, one at a time.
type intake struct {
	*Node
	// When which member was last asked for its certificate, answered with one,
	// or sent its own last record: forged packets must not become streams.
	lastAsked, lastAnswered, lastCorrected map[string]time.Time

	missing           map[string]*missing // by agent: its digest came, its status did not
	asking, answering bucket
	answered          map[string]*bucket // by who asks for statuses

	logged  map[string]bool
	settled <-chan time.Time // fires when the node becomes synced
}

const (
	// againAfter is the least time between two requests, two answers and two
	// corrections to one member: a few round trips.
	againAfter = time.Second
	// maxNotes bounds what is remembered for rate limits and for logging once.
	maxNotes = 1024
	// pruneEvery is how often old records and members are looked for.
	pruneEvery = time.Minute
)

func (n *Node) newIntake() *intake {
	return &intake{
		Node: n, lastAsked: map[string]time.Time{}, lastAnswered: map[string]time.Time{},
		lastCorrected: map[string]time.Time{}, logged: map[string]bool{},
		missing: map[string]*missing{}, answered: map[string]*bucket{},
	}
}

func (i *intake) run(ctx context.Context) {
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	repair := time.NewTicker(repairEvery)
	defer repair.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case in := <-i.inbox:
			i.message(in)
		case in := <-i.states:
			i.merge(in)
		case <-i.settled:
			i.changed()
		case <-repair.C:
			i.repair(i.now())
		case <-prune.C:
			now := i.now()
			i.store.forget(now, i.opts.Forget)
			i.members.forget(now, i.opts.Forget)
			i.changed()
		}
	}
}

// message takes one of our messages: a type byte and its content.
func (i *intake) message(in inbound) {
	content := in.message[1:]
	switch in.message[0] {
	case typeEnvelope:
		if i.envelope(content, in.at, direct) {
			i.changed()
		}
	case typeHeld:
		i.held(content, in.at)
	case typeWant:
		i.want(content, in.at)
	case typeCertRequest:
		i.certRequest(content)
	case typeCertResponse:
		if r, err := wire.DecodeCertResponse(content); err == nil {
			i.learn(r.GetCert(), in.at)
		} else {
			i.refuse(wire.Kind_CERT, "", reasonMalformed, err)
		}
	default: // of a newer version
		i.metrics.records.WithLabelValues("unknown", "ignored").Inc()
	}
}

// merge takes the state of a push/pull. What it holds was true when its holder
// heard of it, at the latest. Nobody sees half of it.
func (i *intake) merge(in inbound) {
	state, err := wire.DecodeState(in.message)
	if err != nil {
		i.refuse(wire.Kind_KIND_UNSPECIFIED, "", reasonMalformed, err)
		return
	}
	for _, der := range state.GetCerts() {
		i.learn(der, in.at)
	}
	i.store.hold(true)
	statuses := false
	for _, h := range state.GetHeld() {
		if i.envelope(h.GetEnvelope(), i.heardAt(h, in.at), pulled) {
			statuses = true
		}
	}
	i.store.hold(false)
	if statuses && state.GetWhole() {
		i.syncBy(i.now())
	}
	if statuses {
		i.changed()
	}
}

// held takes a record that was passed on by itself.
func (i *intake) held(content []byte, at time.Time) {
	h, err := wire.DecodeHeld(content)
	if err != nil {
		i.refuse(wire.Kind_KIND_UNSPECIFIED, "", reasonMalformed, err)
		return
	}
	if i.envelope(h.GetEnvelope(), i.heardAt(h, at), passed) {
		i.changed()
	}
}

// heardAt is when what another member holds was true, by that member's word. An
// age beyond Forget is as good as any other; it must not overflow.
func (i *intake) heardAt(h *wire.Held, at time.Time) time.Time {
	age := i.opts.Forget
	if ms := h.GetAgeMs(); ms < uint64(age/time.Millisecond) {
		age = time.Duration(ms) * time.Millisecond
	}
	return at.Add(-age)
}

// syncBy makes the node synced from then on, if it is not to be so earlier.
func (i *intake) syncBy(at time.Time) {
	if have := i.syncedAt.Load(); have != nil && !at.Before(*have) {
		return
	}
	i.syncedAt.Store(&at)
	i.settled = time.After(at.Sub(i.now()))
}

// way is how a record came.
type way int

const (
	direct way = iota // from its origin
	pulled            // in the state of a push/pull
	passed            // by itself, from a member that may not be its origin
)

// unpack reads an envelope and its body.
func unpack(raw []byte) (*wire.Envelope, *wire.Body, error) {
	env, err := wire.DecodeEnvelope(raw)
	if err != nil {
		return nil, nil, err
	}
	body, err := wire.DecodeBody(env.GetBody())
	return env, body, err
}

// envelope takes a record, heard at the given time. It reports whether the record
// is another member's status that is held now: news, or from a push/pull's state,
// where what is known counts too.
func (i *intake) envelope(raw []byte, heard time.Time, by way) (status bool) {
	env, body, err := unpack(raw)
	if err != nil {
		i.refuse(wire.Kind_KIND_UNSPECIFIED, "", reasonMalformed, err)
		return false
	}
	kind, origin := body.GetKind(), body.GetOrigin()
	cert := i.store.cert(fleet.KeyID(env.GetKeyId()))
	if cert == nil {
		i.refuse(kind, origin, reasonUnknownKey, nil)
		i.askFor(fleet.KeyID(env.GetKeyId()), origin, by)
		return false
	}
	k := slot{role: cert.Role, kind: kind, origin: origin, key: body.GetKey()}
	own := i.isOwn(cert.Role, origin)
	epoch, version := i.store.order(k)
	if own {
		epoch, version = i.own.order()
	}
	// The order is looked at before the signature, so that repeats are cheap.
	if !body.Newer(epoch, version) {
		i.repeated(k, by == direct && !own)
		return kind == wire.Kind_STATUS && by == pulled && !own
	}
	now := i.now()
	j := judge(env, body, cert, now)
	if j.reason != "" {
		i.refuse(kind, origin, j.reason, j.err)
		return false
	}
	if own {
		i.count(kind, "own")
		i.outrank(body.GetEpoch(), body.GetVersion())
		return false
	}
	if kind == wire.Kind_PODS && (by != direct || cert.Name != string(i.opts.region())) {
		i.count(kind, "ignored") // another region's business, or of an age that is another's word
		return false
	}
	r := &record{
		by: subject{role: cert.Role, name: cert.Name}, epoch: body.GetEpoch(), version: body.GetVersion(),
		raw: raw, status: j.status, heard: heard, keyID: cert.KeyID, notAfter: cert.NotAfter,
	}
	if j.digest != nil || kind == wire.Kind_PODS { // what counts is the status, or the next one
		r.raw = nil
	}
	if why, ok := i.store.put(k, r, now); !ok {
		i.refuse(kind, origin, why, nil)
		return false
	}
	i.count(kind, "accepted")
	if by == passed {
		i.passOn(k, body, raw, heard)
	}
	i.accepted(body, cert, heard, j, now)
	return j.status != nil
}

// accepted acts on a record that is held now.
func (i *intake) accepted(body *wire.Body, cert *fleet.Cert, heard time.Time, j judgement, now time.Time) {
	switch {
	case j.status != nil:
		i.syncBy(now.Add(syncGrace))
	case j.digest != nil:
		i.digest(body, j.digest, now)
	default:
		i.tell(body, cert, heard, j)
	}
}

// repeated takes a record that is not newer than its slot's. One that its origin
// sent itself is behind.
func (i *intake) repeated(k slot, behind bool) {
	if !behind {
		i.count(k.kind, "known")
		return
	}
	i.refuse(k.kind, k.origin, reasonReplayed, nil)
	i.correct(k)
}

// tell gives an accepted record, but for a status or digest, to whom it concerns.
func (i *intake) tell(body *wire.Body, cert *fleet.Cert, heard time.Time, j judgement) {
	switch {
	case body.GetKind() == wire.Kind_RECORD && body.GetKey() == leaving:
		i.members.left(body.GetOrigin(), roleOf(cert), heard)
		return
	case j.row != nil && i.opts.role() == RoleAgent && j.row.Source != i.opts.region():
		return // another region's business
	case i.opts.OnRecord == nil:
		return
	}
	select {
	case i.records <- Received{Body: body, From: cert, Heard: heard}:
	default:
		i.metrics.dropped.WithLabelValues("records").Inc()
	}
}

// learn takes a certificate if it is the fleet's.
func (i *intake) learn(der []byte, now time.Time) {
	cert, err := i.opts.Roots.Verify(der, now)
	if err != nil {
		i.refuse(wire.Kind_CERT, "", reasonForged, err)
		return
	}
	i.store.addCert(cert)
}
