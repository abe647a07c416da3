package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/gossip/fleet"
)

// lifetime is a certificate's, of some days.
func lifetime(days int) (time.Duration, error) {
	const day, most = 24 * time.Hour, 36500 // a century
	if days < 1 || days > most {
		return 0, fmt.Errorf("--days %d: want 1 to %d", days, most)
	}
	return time.Duration(days) * day, nil
}

func newKeygen() *cobra.Command {
	return newGroup("keygen", "Make the keys of a fleet, and API keys of a gateway",
		keygenFleet(), keygenMember(fleet.RoleRegion), keygenMember(fleet.RoleDirector), keygenGossip(), keygenPepper(), keygenKey())
}

// memberRequest is what the fleet's key is to certify.
func memberRequest(role fleet.Role, name string, endpoints []string, slots, days int) (fleet.Request, error) {
	grant, err := parseGrant(endpoints, slots)
	if err != nil {
		return fleet.Request{}, err
	}
	life, err := lifetime(days)
	return fleet.Request{Role: role, Name: name, Grant: grant, Lifetime: life}, err
}

// keyFiles are the two files that a keygen command wrote.
type keyFiles struct {
	Cert    string    `json:"cert_file"`
	Key     string    `json:"key_file"`
	Expires time.Time `json:"expires"`
	Note    string    `json:"note"`
}

// String is what a person needs to know of them.
func (k keyFiles) String() string {
	return fmt.Sprintf("certificate  %s\nkey          %s\nexpires      %s\n%s", k.Cert, k.Key, k.Expires.Format(time.DateOnly), k.Note)
}

// save writes a pair as NAME.pem and NAME.key into a folder.
func (k *keyFiles) save(p fleet.PEMs, dir, name string) error {
	k.Cert, k.Key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	if err := fleet.Save(p, k.Cert, k.Key); err != nil {
		return badInput{err}
	}
	return nil
}
