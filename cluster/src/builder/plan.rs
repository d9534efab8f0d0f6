//! Whether a description is in order.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Builder;
use crate::config::{Preset, Timings};
use crate::discovery::{Discovery, MAX_DISCOVERIES, StaticList};
use crate::error::Error;
use crate::formation::MAX_EXPECTED;
use crate::hello::{MAX_SETTING_BYTES, MAX_SETTINGS};
use crate::identity::NodeName;
use crate::secure::Secret;
use crate::secure::ring::Ring;
use crate::secure::tls::TlsIdentity;
use crate::state::{Profile, Weight, Zone, encode_addresses};

/// The longest name of a cluster and of a role, in bytes.
const MAX_WORD_BYTES: usize = 64;
/// The most roles that a node may have.
const MAX_ROLES: usize = 8;

/// A description that was found to be in order.
pub(super) struct Plan {
    pub(super) name: NodeName,
    pub(super) listen: SocketAddr,
    pub(super) advertise: Option<SocketAddr>,
    pub(super) ring: Ring,
    pub(super) timings: Timings,
    pub(super) profile: Profile,
    pub(super) addresses: Option<Vec<u8>>,
    pub(super) discoveries: Vec<Arc<dyn Discovery>>,
}

impl Builder {
    pub(super) fn validate(&self) -> Result<Plan, Error> {
        let name = NodeName::new(&self.name)?;
        let word = |setting, word: &str| {
            if word.is_empty() || word.len() > MAX_WORD_BYTES {
                return Err(Error::config(setting, format!("1 to {MAX_WORD_BYTES} bytes, not {word:?}")));
            }
            Ok(())
        };
        word("cluster", &self.cluster)?;
        self.roles.iter().try_for_each(|role| word("role", role))?;
        for (key, value) in &self.settings {
            word("must_match", key)?;
            if value.is_empty() || value.len() > MAX_SETTING_BYTES {
                return Err(Error::config("must_match", format!("1 to {MAX_SETTING_BYTES} bytes, not {value:?}")));
            }
        }
        if self.settings.len() > MAX_SETTINGS {
            return Err(Error::config("must_match", format!("at most {MAX_SETTINGS}")));
        }
        if self.roles.len() > MAX_ROLES {
            return Err(Error::config("role", format!("at most {MAX_ROLES}, not {}", self.roles.len())));
        }
        if self.expected.is_some_and(|nodes| nodes == 0 || nodes > MAX_EXPECTED) {
            return Err(Error::config("expect", format!("1 to {MAX_EXPECTED} nodes")));
        }
        let mut discoveries = self.discoveries.clone();
        if !self.seeds.is_empty() {
            discoveries.insert(0, Arc::new(StaticList::new(&self.seeds)?));
        }
        if discoveries.len() > MAX_DISCOVERIES {
            let problem = format!("at most {MAX_DISCOVERIES} discoveries with the seeds, not {}", discoveries.len());
            return Err(Error::config("discover", problem));
        }
        let addr = |setting, text: &str| {
            text.parse::<SocketAddr>()
                .map_err(|_| Error::config(setting, format!("IP:PORT, such as 127.0.0.1:7946, not {text:?}")))
        };
        let listen = addr("listen", &self.listen)?;
        let advertise = self.advertise.as_deref().map(|text| addr("advertise", text)).transpose()?;
        if advertise.unwrap_or(listen).ip().is_unspecified() {
            return Err(Error::config("advertise", "others cannot reach an unspecified address: name one"));
        }
        let secret = match &self.secret {
            Some(secret) => secret.clone()?,
            None if self.preset == Preset::Local && listen.ip().is_loopback() => Secret::open(&self.cluster),
            None => {
                return Err(Error::config("secret", "required, unless all is on loopback with the preset `Local`"));
            }
        };
        let trusted = self.trusted.iter().cloned().collect::<Result<Vec<_>, _>>()?;
        let ring = Ring::new(secret, trusted)?;
        let timings = self.timings.clone().unwrap_or_else(|| Timings::preset(self.preset));
        timings.validate().map_err(|problem| Error::config("timings", problem))?;
        let profile = Profile {
            weight: Weight::new(self.weight)?,
            zone: self.zone.as_deref().map(Zone::new).transpose()?,
            roles: self.roles.clone(),
            draining: false,
            left: false,
        };
        let addresses = (!self.addresses.is_empty()).then(|| encode_addresses(&self.addresses)).transpose()?;
        Ok(Plan { name, listen, advertise, ring, timings, profile, addresses, discoveries })
    }
    pub(super) fn tls(&self, plan: &Plan, leaf_seed: &[u8; 32]) -> Result<TlsIdentity, Error> {
        match &self.certificates {
            Some(certificates) => Ok(certificates.identity(&self.env, &plan.name)?),
            None => TlsIdentity::of_ring(self.env.ground().crypto(), &plan.ring, &plan.name, leaf_seed)
                .map_err(|error| Error::config("secret", error.to_string())),
        }
    }
}
