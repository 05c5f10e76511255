//! What goes wrong with a database, and is told by what can be done about it.

use event::Filter;
use layer2::{ChangesFrom, Detail, Layer2Error};

use super::{database, open};

async fn failure(url: &str) -> Layer2Error {
    open(url).count(&[Filter::default()]).await.unwrap_err()
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_unavailable_and_its_password_is_told_to_nobody() {
    let port = database::free_port();
    let url = format!("postgres://ann:very-secret@127.0.0.1:{port}/events");
    let error = failure(&url).await;
    assert!(matches!(error, Layer2Error::Unavailable(_)), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!(open(&url).name(), format!("postgres://127.0.0.1:{port}/events"));
}

#[tokio::test]
async fn a_user_without_rights_is_refused_and_so_is_a_database_that_is_not_there() {
    let Some(url) = database::create().await else { return };
    let user = format!("stranger_{}", std::process::id());
    open(&url).length().await.unwrap();
    database::run(&url, &format!("CREATE ROLE {user} LOGIN")).await;
    let error = failure(&url.replacen("aquifer@", &format!("{user}@"), 1)).await;
    assert!(matches!(error, Layer2Error::Refused(_)), "{error}");
    let error = failure(&format!("{url}_which_nobody_made")).await;
    assert!(matches!(error, Layer2Error::Refused(_)), "{error}");
}

#[tokio::test]
async fn tables_of_a_later_version_are_left_alone() {
    let Some(url) = database::create().await else { return };
    open(&url).length().await.unwrap();
    let later = "INSERT INTO _sqlx_migrations VALUES (99, 'later', now(), true, '', 0)";
    database::run(&url, later).await;
    let error = failure(&url).await;
    assert!(matches!(error, Layer2Error::Interface(_)), "{error}");
}

#[tokio::test]
async fn tables_that_went_are_an_error_of_the_interface_and_a_lost_connection_is_made_anew() {
    let Some(url) = database::create().await else { return };
    let store = open(&url);
    assert_eq!(store.length().await.unwrap(), 0);
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database::run(&url, cut).await;
    assert_eq!(store.length().await.unwrap(), 0);
    database::run(&url, "DROP TABLE removals").await;
    let error = store.changes(ChangesFrom::Seq(0), Detail::Ids).await.unwrap_err();
    assert!(matches!(error, Layer2Error::Interface(_)), "{error}");
}
