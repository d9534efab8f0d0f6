//! A list that nearly always has one element, which then needs no memory of its own.

/// None, one, or many.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) enum Few<T> {
    #[default]
    None,
    One(T),
    #[allow(clippy::box_collection, reason = "a vector of its own would make every list of one larger")]
    Many(Box<Vec<T>>),
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut list: Vec<T>) -> Self {
        match list.len() {
            0 => Self::None,
            1 => Self::One(list.remove(0)),
            _ => Self::Many(Box::new(list)),
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(iter: I) -> Self {
        let mut iter = iter.into_iter();
        match (iter.next(), iter.next()) {
            (Some(first), Some(second)) => Self::Many(Box::new([first, second].into_iter().chain(iter).collect())),
            (Some(only), None) => Self::One(only),
            (None, _) => Self::None,
        }
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self {
            Self::None => (None, Vec::new()),
            Self::One(only) => (Some(only), Vec::new()),
            Self::Many(list) => (None, *list),
        };
        one.into_iter().chain(many)
    }
}

impl<T> Few<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(only) => std::slice::from_ref(only),
            Self::Many(list) => list,
        }
    }

    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::None => Vec::new(),
            Self::One(only) => vec![only],
            Self::Many(list) => *list,
        }
    }

    pub(super) fn insert(&mut self, at: usize, element: T) {
        let list = match std::mem::take(self) {
            Self::None => Self::One(element),
            Self::One(other) if at == 0 => Self::Many(Box::new(vec![element, other])),
            Self::One(other) => Self::Many(Box::new(vec![other, element])),
            Self::Many(mut list) => {
                list.insert(at, element);
                Self::Many(list)
            }
        };
        *self = list;
    }

    pub(super) fn retain_mut(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        match self {
            Self::None => {}
            Self::One(only) => {
                if !keep(only) {
                    *self = Self::None;
                }
            }
            Self::Many(list) => {
                list.retain_mut(keep);
                if list.len() < 2 {
                    *self = std::mem::take(&mut **list).into();
                }
            }
        }
    }
}
