//! A version of a job as it travels: everything that a JobMaster needs to decide about it, and a
//! TaskManager to make its tasks.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use streamrt_graph::{FunctionRef, JobSpec};
use streamrt_types::Configuration;
use streamrt_wit::{Node, Plan};

/// A component of a job, by its digest; the bytes travel on their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// For people: the name of the component's file, without its extension.
    pub name: String,
    /// The blake3 digest of the bytes, in 64 hex digits.
    pub digest: String,
    pub args: Vec<String>,
    /// The digest of the component that the job was started with, where an upgrade has put this
    /// one in its place.
    pub replaces: Option<String>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct JobPlan {
    pub spec: JobSpec,
    /// The functions of `spec` name them by index.
    pub components: Vec<Component>,
    pub configuration: Arc<Configuration>,
    /// The parallelism of operators that name none.
    pub parallelism: u32,
    pub max_parallelism: u32,
    /// The folders that sinks of components may use, by name.
    pub grants: BTreeMap<String, String>,
}

/// The plan as text: its nodes have options of any shape, which only a format that describes itself
/// can hold.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    name: String,
    nodes: Vec<Node>,
    /// (component, number of the plan, function of that plan)
    functions: Vec<(usize, usize, u32)>,
    plans: Vec<Plan>,
    components: Vec<Component>,
    configuration: BTreeMap<String, String>,
    parallelism: u32,
    max_parallelism: u32,
    grants: BTreeMap<String, String>,
}

impl Text {
    fn of(plan: &JobPlan) -> Text {
        let mut plans: Vec<Arc<Plan>> = Vec::new();
        let mut number = |plan: &Arc<Plan>| {
            let known = plans.iter().position(|known| Arc::ptr_eq(known, plan));
            known.unwrap_or_else(|| {
                plans.push(plan.clone());
                plans.len() - 1
            })
        };
        let functions = plan.spec.functions.iter();
        let functions = functions.map(|f| (f.plugin, number(&f.plan), f.number));
        let functions = functions.collect();
        Text {
            name: plan.spec.name.clone(),
            nodes: plan.spec.nodes.clone(),
            functions,
            plans: plans.iter().map(|plan| Plan::clone(plan)).collect(),
            components: plan.components.clone(),
            configuration: plan.configuration.texts.clone(),
            parallelism: plan.parallelism,
            max_parallelism: plan.max_parallelism,
            grants: plan.grants.clone(),
        }
    }

    fn into_plan(self) -> Result<JobPlan, String> {
        let plans: Vec<Arc<Plan>> = self.plans.into_iter().map(Arc::new).collect();
        let n_components = self.components.len();
        let function = |(plugin, plan, number): (usize, usize, u32)| {
            let plan = plans.get(plan).cloned();
            let plan = plan.filter(|plan| (number as usize) < plan.functions.len());
            let plan = plan.filter(|_| plugin < n_components);
            plan.map(|plan| FunctionRef {
                plugin,
                plan,
                number,
            })
        };
        let functions: Option<Vec<FunctionRef>> =
            self.functions.into_iter().map(function).collect();
        let mut configuration = Configuration::default();
        for (key, value) in &self.configuration {
            configuration
                .set(key, value)
                .map_err(|e| e.message().to_owned())?;
        }
        Ok(JobPlan {
            spec: JobSpec {
                name: self.name,
                nodes: self.nodes,
                functions: functions.ok_or("a function is in no plan or component")?,
            },
            components: self.components,
            configuration: Arc::new(configuration),
            parallelism: self.parallelism,
            max_parallelism: self.max_parallelism,
            grants: self.grants,
        })
    }
}

impl Serialize for JobPlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(&Text::of(self)).map_err(S::Error::custom)?;
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for JobPlan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JobPlan, D::Error> {
        let text = String::deserialize(deserializer)?;
        let text: Text = serde_json::from_str(&text).map_err(D::Error::custom)?;
        text.into_plan().map_err(D::Error::custom)
    }
}

impl PartialEq for JobPlan {
    fn eq(&self, other: &JobPlan) -> bool {
        let text = |plan| serde_json::to_value(Text::of(plan)).ok();
        text(self) == text(other)
    }
}

/// Shared within a process, a value between two.
pub(crate) mod shared {
    use super::*;

    pub fn serialize<S: Serializer>(plan: &Arc<JobPlan>, serializer: S) -> Result<S::Ok, S::Error> {
        plan.as_ref().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<JobPlan>, D::Error> {
        JobPlan::deserialize(deserializer).map(Arc::new)
    }
}
